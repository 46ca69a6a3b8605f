"""An issue without a failing test: one is drafted, the run aims at it, and all of it is called advisory."""

from __future__ import annotations

import json
import traceback
import types
from collections.abc import Mapping

import pytest

from pipeline.batch.outcome import row_of
from pipeline.batch.task_file import Instance
from pipeline.cli.ending import Ending, apply_to_working_tree, as_object, tell
from pipeline.config import Rung
from pipeline.core import Limits
from pipeline.exceptions import NothingToRepairError, SandboxError
from pipeline.graph.run import run_task
from pipeline.report import render
from pipeline.runs import RunFolder
from pipeline.testing import RecordingSandbox, ScriptedGenerator
from tests.unit.planner import Edges, git_apply, make_repository, make_task, played, settings_with

MODULE, TEST, NEW = "calc/core.py", "tests/test_core.py", "tests/test_issue.py"
SOURCE = "def add(a, b):\n    return abs(a) + b\n\n\ndef double(x):\n    return x * 2\n"
TESTS = "from calc.core import add, double\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
FILES = {MODULE: SOURCE, "calc/__init__.py": "", TEST: TESTS}
ISSUE = "`add(-1, 2)` returns 3. It should return 1."
SHOWS = "add_negative():\n    assert add(-1, 2) == 1\n```"
SHOWS_LONGER = "add_minus():\n    result = add(-1, 2)\n    assert result == 1\n```"
PASSES = "add_positive():\n    assert add(1, 2) == 3\n```"
SLIP = "add_slip():\n    assert ad(-1, 2) == 1\n    add(1, 1)\n```"
WRONG, RIGHT = "\n    return a - b\n```", "\n    return a + b\n```"


def calculated(files: Mapping[str, bytes], _request) -> dict[str, str]:
    """Play the tests, drafted ones too: all of them are ours, so they may run here."""
    outcomes = {}
    for path in (TEST, NEW):
        if path not in files:
            continue
        core = types.ModuleType("calc.core")
        exec(compile(files[MODULE], MODULE, "exec"), core.__dict__)
        module = {name: getattr(core, name) for name in ("add", "double")}
        source = "\n".join(
            "" if line.startswith(("import", "from")) else line for line in files[path].decode().splitlines()
        )
        exec(compile(source, path, "exec"), module)
        for name in [name for name in module if name.startswith("test_")]:
            outcomes[f"{path}::{name}"] = outcome(module[name])
    return outcomes


def outcome(test) -> str:
    try:
        test()
    except Exception as exc:
        frames = [f for f in traceback.extract_tb(exc.__traceback__) if f.filename in (MODULE, TEST, NEW)]
        lines = [f"{frame.filename}:{frame.lineno}: {type(exc).__name__}" for frame in frames]
        return "\n".join([f"{type(exc).__name__}: {exc}", *lines])
    return "passed"


def writer(tests: list[str], repair: str = RIGHT) -> ScriptedGenerator:
    """Return a generator that drafts these tests in turn, and this repair."""

    def reply(prompt, sampling, number):
        if prompt.prefill.endswith("def test_"):
            return tests[0] if sampling.temperature == 0 else tests[(number + 1) % len(tests)]
        return repair if sampling.temperature else WRONG

    return ScriptedGenerator(reply=reply)


@pytest.fixture
def run(tmp_path):
    async def call(generator, *, files=FILES, sandbox=None, name="run", **task):
        repo = tmp_path / "repo"
        if not repo.exists():
            make_repository(repo, files)
        edges = Edges(generator, sandbox=sandbox or played(calculated))
        edges.settings = settings_with((Rung(num_candidates=4, num_suspects=1),))
        task = make_task(repo, **{"statement": ISSUE, **task})
        return await run_task(task, RunFolder(tmp_path / name), edges.dependencies(tmp_path)), edges

    return call


async def test_a_test_that_shows_the_issue_becomes_the_target_and_everything_says_advisory(
    run, tmp_path, capsys
):
    record, edges = await run(writer([SLIP, SHOWS_LONGER, PASSES, SHOWS]))
    assert (record.status, record.baseline.fail_to_pass) == ("solved", [f"{NEW}::test_add_negative"])
    assert record.baseline.pass_to_pass == [f"{TEST}::test_add"]
    assert record.patch.paths == (MODULE,)
    assert record.patch.is_advisory
    assert record.reason.startswith("ADVISORY")
    assert "Advisory." in render(record)
    folder = RunFolder(tmp_path / "run")
    ending = Ending(folder=folder, record=record, error=None, report=None, applied=False)
    told = json.loads(json.dumps(as_object(ending)))
    assert (told["advisory"], told["reproduction"]["advisory"]) == (True, True)
    tell(ending)
    assert "advisory: it rests on tests/test_issue.py::test_add_negative" in capsys.readouterr().err
    instance = Instance(task=record.task, line=1, digest="")
    assert row_of(instance, record, record.started_at).advisory
    assert any("advisory" in event.message for event in edges.events)


async def test_the_test_is_a_second_diff_that_goes_into_the_patch_only_when_asked_for(run, tmp_path):
    record, _ = await run(writer([SHOWS]))
    folder, repo = RunFolder(tmp_path / "run"), tmp_path / "repo"
    assert NEW not in record.patch.diff
    diff = (folder.path / "reproduction.diff").read_text()
    assert diff == record.reproduction.diff
    apply_to_working_tree(folder, record, with_test=True)
    assert (repo / NEW).read_text() == record.reproduction.source
    assert "a + b" in (repo / MODULE).read_text()
    (repo / NEW).unlink()
    git_apply(repo, diff)
    assert (repo / NEW).read_text() == record.reproduction.source


async def test_drafts_are_in_the_record_with_what_became_of_them_and_count_against_the_limits(run):
    record, _ = await run(writer([SLIP, SHOWS, PASSES, "no test at all"]))
    dropped = {draft.dropped for draft in record.reproduction.drafts}
    assert "it passes on the base" in dropped
    assert "it fails by its own fault: NameError" in dropped
    assert len(record.reproduction.drafts) == 16
    assert len(record.completions) == 16 + sum(len(r.candidates) for r in record.rounds)
    limited, other = await run(
        writer([SHOWS]), name="limited", limits=Limits(num_candidates=5), statement=ISSUE
    )
    assert len(limited.reproduction.drafts) == 5
    assert limited.rounds[0].candidates == []
    assert "num_candidates = 5" in limited.reason
    assert len(other.generator.calls) == 2


async def test_where_no_draft_shows_it_the_end_says_what_was_tried(run, tmp_path):
    record, _ = await run(writer([SLIP, PASSES, "I cannot.", "x(tmp_path):\n    assert add(1)\n```"]))
    assert (record.status, record.patch) == ("unsolved", None)
    assert "none of 16 tests drafted from the issue shows it" in record.reason
    for reason in ("4 x it passes on the base", "own fault: NameError", "asks for fixtures"):
        assert reason in record.reason
    assert record.rounds == []
    assert not (tmp_path / "run/reproduction.diff").exists()
    assert not record.is_advisory
    assert "none of 16" in render(record)


async def test_a_failure_that_comes_and_goes_is_no_evidence(run):
    seen = set()

    def moody(files, request):
        outcomes = calculated(files, request)
        if NEW in files and "-again" in request.run_id:
            return dict.fromkeys(outcomes, "passed")
        seen.add(request.run_id)
        return outcomes

    record, _ = await run(writer([SHOWS]), sandbox=played(moody))
    assert "does not fail the same way each time" in record.reason


async def test_without_an_issue_passing_tests_leave_nothing_to_repair(run):
    for i, task in enumerate(({"statement": ""}, {"statement": "  "}, {"kind": "implement"})):
        with pytest.raises(NothingToRepairError):
            await run(writer([SHOWS]), name=f"run{i}", **task)


async def test_named_tests_that_pass_are_not_replaced_by_a_draft(run):
    with pytest.raises(NothingToRepairError):
        await run(writer([SHOWS]), fail_to_pass=(f"{TEST}::test_add",))


async def test_a_failing_test_that_belongs_to_the_issue_is_the_target_as_ever(run):
    files = {**FILES, TEST: TESTS + "\n\ndef test_add_minus():\n    assert add(-1, 2) == 1\n"}
    record, _ = await run(writer([SHOWS]), files=files)
    assert (record.status, record.reproduction) == ("solved", None)
    assert not record.patch.is_advisory


OTHER = {**FILES, TEST: TESTS + "\n\ndef test_double():\n    assert double(2) == 5\n"}


async def test_a_failing_test_of_something_else_is_left_alone(run):
    record, _ = await run(writer([SHOWS]), files=OTHER)
    assert (record.status, record.is_advisory) == ("solved", True)
    assert record.baseline.fail_to_pass == [f"{NEW}::test_add_negative"]


async def test_it_is_repaired_after_all_where_no_draft_shows_the_issue(run):
    record, edges = await run(writer([PASSES]), files=OTHER)
    assert record.baseline.fail_to_pass == [f"{TEST}::test_double"]
    assert not record.is_advisory
    assert any("the tests that fail are repaired" in event.message for event in edges.events)


async def test_a_candidate_cannot_change_the_drafted_test(run):
    record, edges = await run(writer([SHOWS], repair=WRONG))
    assert record.status == "unsolved"
    tested = [request for request in edges.sandbox.requests if "-fast" in request.run_id]
    assert tested
    for request in tested:
        assert b"def test_add_negative" in request.layers[-1]  # the trusted layer, on top of the candidate


async def test_a_command_that_names_other_tests_runs_the_drafted_one_too(run):
    record, edges = await run(writer([SHOWS]), test_command=f"python -m pytest {TEST}")
    assert record.status == "solved"
    [full] = [request for request in edges.sandbox.requests if request.run_id.endswith("r1c01-full")]
    assert {TEST, NEW} <= set(full.argv)


async def test_a_tree_without_tests_to_imitate_says_so(run):
    files = {MODULE: SOURCE, "calc/__init__.py": "", "tests/check_core.py": TESTS}
    sandbox = played(lambda *_: {"tests/check_core.py::test_add": "passed"})
    record, _ = await run(writer([SHOWS]), files=files, sandbox=sandbox)
    assert (record.status, "no test file" in record.reason) == ("unsolved", True)


async def test_a_broken_sandbox_is_an_infrastructure_error_and_the_run_can_go_on(run):
    def respond(request):
        from pipeline.core import Outcome, SandboxResult

        if "reproduce" in request.run_id:
            return SandboxResult(outcome=Outcome.INFRA_ERROR, error="no space")
        return played(calculated).respond(request)

    with pytest.raises(SandboxError):
        await run(writer([SHOWS]), sandbox=RecordingSandbox(respond=respond))
    record, _ = await run(writer([SHOWS]))
    assert record.status == "solved"


async def test_a_run_that_is_cut_anywhere_goes_on_and_pays_for_nothing_twice(run, tmp_path):
    whole, edges = await run(writer([SLIP, SHOWS, PASSES]), name="whole")

    class CutError(Exception):
        pass

    begun: set[object] = set()
    inner, generator = played(calculated), writer([SLIP, SHOWS, PASSES])
    reply = generator.reply

    def die_once(key: object) -> None:
        if key not in begun:
            begun.add(key)
            raise CutError

    def respond(request):
        die_once(request.run_id)
        return inner.respond(request)

    def dying_reply(prompt, sampling, number):
        die_once((prompt, sampling))
        return reply(prompt, sampling, number)

    generator.reply = dying_reply
    sandbox, record = RecordingSandbox(respond=respond), None
    for _ in range(200):
        try:
            record, _ = await run(generator, sandbox=sandbox, name="cut")
            break
        except CutError:
            continue
    assert record.patch == whole.patch
    assert record.reproduction == whole.reproduction
    assert len(begun) == len(edges.sandbox.requests) + len(edges.generator.calls)
