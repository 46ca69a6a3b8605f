"""An issue becomes a test with real pytest in real bubblewrap; only what the model says is scripted."""

from __future__ import annotations

import pytest

from pipeline.config import Rung, Settings
from pipeline.core import Limits, SandboxLimits
from pipeline.graph.run import Dependencies, run_task
from pipeline.runs import RunFolder, RunRecord
from pipeline.testing import ScriptedGenerator
from tests.integration.planner_tools import PytestEnvironment
from tests.unit.planner import FILES, MODULE, SOURCE, TEST, git_apply, make_repository, make_task
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox

pytestmark = pytest.mark.integration

CODE = SOURCE.replace("return a - b", "return abs(a) + b")  # what the repository's own tests let pass
ISSUE = "add(-1, 2) gives 3, and it should give 1."
RIGHT, WRONG = "\n    return a + b\n```", "\n    return b\n```"
SHOWS = "issue():\n    assert add(-1, 2) == 1\n```"
USELESS = [
    "passes():\n    assert add(1, 2) == 3\n```",
    "slips():\n    assert add(-1) == 1\n```",
    "misses():\n    from calc.core import nothing\n    assert add(-1, 2) == 1\n```",
    "hangs():\n    while add(1, 2):\n        pass\n    assert add(1, 2)\n```",
    "forges():\n    open('/results/junit.xml', 'w').write('<testsuites/>')\n    assert add(-1, 2) == 3\n```",
    "I would rather talk about the weather.",
]


async def repaired(tmp_path, tests: list[str], repairs: list[str]) -> RunRecord:
    repo = make_repository(tmp_path / "repo", {**FILES, MODULE: CODE})

    def reply(prompt, sampling, number) -> str:
        answers = tests if prompt.prefill.endswith("def test_") else repairs
        return answers[0 if sampling.temperature == 0 else (number + 1) % len(answers)]

    edges = Dependencies(
        generator=ScriptedGenerator(reply=reply),
        sandbox=BubblewrapSandbox(),
        environments=PytestEnvironment(tmp_path / "deps"),
        settings=Settings(planner={"ladder": (Rung(num_candidates=2),)}),
        clone_cache=tmp_path / "clones",
    )
    limits = Limits(sandbox=SandboxLimits(wall_seconds=15))
    task = make_task(repo, statement=ISSUE, limits=limits, test_command=f"python -m pytest {TEST}")
    return await run_task(task, RunFolder(tmp_path / "run"), edges)


async def test_an_issue_is_repaired_by_a_test_that_was_drafted_from_it(tmp_path):
    record = await repaired(tmp_path, [SHOWS, USELESS[0], USELESS[1]], [WRONG, RIGHT])
    assert (record.status, record.patch.is_advisory) == ("solved", True)
    assert record.baseline.fail_to_pass == ["tests/test_issue.py::test_issue"]
    assert record.patch.paths == (MODULE,)
    wrong = record.rounds[0].candidates[0].verdict
    assert (wrong.num_fixed, wrong.num_target) == (0, 1)
    git_apply(tmp_path / "repo", record.patch.diff + record.reproduction.diff)
    assert "a + b" in (tmp_path / "repo" / MODULE).read_text()


async def test_drafts_that_show_nothing_leave_the_run_without_a_target(tmp_path):
    record = await repaired(tmp_path, USELESS, [RIGHT])
    assert (record.status, record.patch, record.rounds) == ("unsolved", None, [])
    dropped = {draft.dropped for draft in record.reproduction.drafts}
    for reason in (
        "it passes on the base",
        "it fails by its own fault: TypeError",
        "it fails by its own fault: ImportError",
        "it does not end within the limits",
    ):
        assert reason in dropped
