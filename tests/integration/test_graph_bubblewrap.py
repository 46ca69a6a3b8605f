"""The planner repairs a real repository with real pytest in real bubblewrap; only the drafts are scripted."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import Limits, SandboxLimits, VerdictKind
from pipeline.exceptions import NothingToRepairError, PrepareError
from pipeline.graph.run import run_task
from pipeline.runs import RunFolder, RunRecord
from tests.integration.planner_tools import dependencies
from tests.unit.planner import (
    FILES,
    MODULE,
    RIGHT,
    SOURCE,
    TEST,
    TEST_SOURCE,
    WRONG,
    git_apply,
    make_repository,
    make_task,
)

pytestmark = pytest.mark.integration

ADD = f"{TEST}::test_add"
ROOT = Path(__file__).parents[2]
LIMITS = Limits(sandbox=SandboxLimits(wall_seconds=20))


async def repair(tmp_path, answers, *, files=FILES, **task) -> RunRecord:
    repo = make_repository(tmp_path / "repo", files)
    task = make_task(repo, **{"limits": LIMITS, **task})
    return await run_task(task, RunFolder(tmp_path / "run"), dependencies(tmp_path, answers))


async def test_a_real_repository_is_repaired(tmp_path):
    record = await repair(tmp_path, [WRONG, "\n    return a.undefined\n", RIGHT])
    assert (record.status, record.patch.candidate_id) == ("solved", "r1c02")
    kinds = [(e.verdict.kind, e.verdict.failure_class) for e in record.rounds[0].candidates[:2]]
    assert kinds == [(VerdictKind.UNCHANGED, "assertion"), (VerdictKind.UNCHANGED, "type")]
    git_apply(tmp_path / "repo", record.patch.diff)
    assert (tmp_path / "repo" / MODULE).read_text() == SOURCE.replace("a - b", "a + b")


async def test_the_repository_itself_is_not_touched(tmp_path):
    await repair(tmp_path, [RIGHT])
    status = await asyncio.to_thread(
        subprocess.run,
        ["git", "-C", str(tmp_path / "repo"), "status", "--porcelain", "--ignored"],
        capture_output=True,
        check=True,
    )
    assert status.stdout == b""


# Worded so that no guard sees what they do: the sandbox and the judge must hold by themselves.
LEAVE = "getattr(__import__('os'), '_ex' + 'it')"
FORGERIES = [
    f"\n    {LEAVE}(0)\n",
    # Rewrites the tests on disk while they run.
    "\n    open('/workspace/tests/test_' + 'core.py', 'w').write('def test_add(): pass')\n    return a - b\n",
    # Writes the report itself and leaves.
    "\n    case = '<testcase classname=\"tests.test_%s\" name=\"test_add\"/>' % 'core'\n"
    "    open('/results/junit.xml', 'w').write(f'<testsuites><testsuite>{case}</testsuite></testsuites>')\n"
    f"    {LEAVE}(1)\n",
    "\n    import sys\n    vars(sys)['exit'](0)\n",
    "\n    while True:\n        pass\n",
    "\n    raise getattr(__import__('unit' + 'test'), 'SkipTest')('no')\n",
]


async def test_a_candidate_cannot_forge_its_verdict(tmp_path):
    record = await repair(tmp_path, FORGERIES)
    assert record.status == "unsolved"
    tested = [entry.verdict.kind for entry in record.rounds[0].candidates if entry.verdict]
    assert len(tested) == len(FORGERIES)
    assert set(tested) <= {VerdictKind.BROKEN, VerdictKind.UNCHANGED, VerdictKind.TIMED_OUT}


async def test_bugs_in_two_files_are_repaired_by_a_later_round_on_top_of_the_first(tmp_path):
    moved = {
        MODULE: SOURCE[: SOURCE.index("def double")],
        "calc/more.py": SOURCE[SOURCE.index("def double") :].replace("x * 2", "x * 3"),
        TEST: TEST_SOURCE.replace("import add, double", "import add\nfrom calc.more import double"),
    }
    blocks = "    return {0}\n=======\n    return {1}\n>>>>>>> REPLACE\n"  # the prefill opens the first block
    # Of the tests of `double` none passes, of those of `add` one does: `double` is asked for first.
    answers = [blocks.format("x * 3", "x * 2"), blocks.format("a - b", "a + b")]
    repo = make_repository(tmp_path / "repo", {**FILES, **moved})
    edges = dependencies(tmp_path, answers)
    rungs = [rung.model_copy(update={"strategy": "blocks"}) for rung in edges.settings.planner.ladder]
    planner = edges.settings.planner.model_copy(update={"ladder": tuple(rungs)})
    edges = replace(edges, settings=edges.settings.model_copy(update={"planner": planner}))
    record = await run_task(make_task(repo, limits=LIMITS), RunFolder(tmp_path / "run"), edges)
    assert [round_.footing for round_ in record.rounds] == ["", "r1c00"]
    assert (record.status, record.patch.paths) == ("solved", (MODULE, "calc/more.py"))
    git_apply(repo, record.patch.diff)
    assert "x * 2" in (repo / "calc/more.py").read_text()


async def test_a_syntax_error_is_repaired(tmp_path):
    files = {**FILES, MODULE: SOURCE.replace("return a - b", "return a +")}
    record = await repair(tmp_path, [RIGHT], files=files)
    assert (record.baseline.fail_to_pass, record.status) == ([TEST], "solved")


async def test_a_missing_dependency_is_named(tmp_path):
    files = {**FILES, TEST: "import nosuchpackage\n" + TEST_SOURCE}
    with pytest.raises(PrepareError, match="nosuchpackage"):
        await repair(tmp_path, [RIGHT], files=files)


async def test_passing_tests_leave_nothing_to_repair(tmp_path):
    with pytest.raises(NothingToRepairError):
        await repair(tmp_path, [RIGHT], files={**FILES, MODULE: SOURCE.replace("a - b", "a + b")})


async def test_a_hanging_test_is_found_and_repaired(tmp_path):
    files = {**FILES, MODULE: SOURCE.replace("return a - b", "while b:\n        a += 1\n    return a")}
    limits = Limits(sandbox=SandboxLimits(wall_seconds=8))
    record = await repair(tmp_path, [RIGHT], files=files, limits=limits)
    assert (record.baseline.fail_to_pass, record.status) == ([ADD], "solved")


async def test_another_test_command_is_judged_by_its_exit_code(tmp_path):
    check = "from calc.core import add\nassert add(1, 2) == 3, add(1, 2)\n"
    others = "".join(f"def other_{i}(x):\n    return x * {i}\n\n\n" for i in range(5))
    files = {**FILES, "check.py": check, "calc/other.py": others}
    record = await repair(tmp_path, [WRONG, RIGHT], files=files, test_command="python check.py")
    assert (record.baseline.fail_to_pass, record.status) == (["command"], "solved")


def test_a_run_that_is_killed_at_random_moments_finishes_and_repeats_nothing(tmp_path):
    repo = make_repository(tmp_path / "repo")
    (tmp_path / "task.json").write_text(make_task(repo, limits=LIMITS).model_dump_json())
    log, ledger = tmp_path / "requests.log", tmp_path / "run" / "ledger"
    log.touch()
    dice = random.Random(7)
    num_kills = 0
    code = None
    while code is None:
        finished = {path.stem.removeprefix("sandbox-") for path in ledger.glob("sandbox-*.json")}
        num_logged = len(log.read_text().split())
        num_paid = len(list(ledger.glob("*.json")))
        code = run_and_kill(tmp_path, lambda n=num_paid: len(list(ledger.glob("*.json"))) > n, dice)
        num_kills += code is None
        begun = log.read_text().split()[num_logged:]
        assert not finished.intersection(begun), "a finished run was begun again"
    assert (code, num_kills > 2) == (0, True)
    record = RunFolder(tmp_path / "run").load()
    assert (record.status, record.patch.candidate_id) == ("solved", "r1c02")


def run_and_kill(work: Path, has_progressed: Callable[[], bool], dice: random.Random) -> int | None:
    """Start the run, kill it some time after it paid for something new; return its exit code if it ended."""
    answers = [WRONG, "\n    return a * b + 100\n", RIGHT]
    command = [sys.executable, "-m", "tests.integration.planner_tools", str(work), *answers]
    with subprocess.Popen(command, cwd=ROOT) as process:
        give_up_at = time.monotonic() + 120
        delay = dice.uniform(0.0, 0.5)
        while process.poll() is None:
            assert time.monotonic() < give_up_at, "the run stands still"
            if has_progressed():
                try:
                    return process.wait(timeout=delay)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    return None
            time.sleep(0.02)
        return process.returncode
