"""What is not written yet is written: the graph over stubs and over definitions that are not there."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from pipeline.config import Rung
from pipeline.core import CapturedStream, Outcome, SandboxResult
from pipeline.graph.run import run_task
from pipeline.runs import RunFolder
from pipeline.testing import ScriptedGenerator
from tests.unit.planner import Edges, git_apply, make_repository, make_task, played, settings_with

MODULE, TEST = "calc/core.py", "tests/test_core.py"
STUBS = '''\
"""Numbers."""


def clamp(value, low, high):
    """Return the value held between low and high."""
    raise NotImplementedError


def shrink(values, low, high):
    """Return the values clamped."""
    raise NotImplementedError


def double(value):
    return value * 2
'''
TESTS = """\
from calc.core import clamp, double, shrink


def test_clamp():
    assert clamp(12, 0, 7) == 7


def test_clamp_low():
    assert clamp(-1, 0, 7) == 0


def test_shrink():
    assert shrink([1, 9], low=0, high=5) == [1, 5]


def test_double():
    assert double(4) == 8
"""
FILES = {MODULE: STUBS, "calc/__init__.py": "", TEST: TESTS}
CLAMP = "\n    return max(low, min(value, high))\n```"
SHRINK = "\n    return [clamp(value, low, high) for value in values]\n```"
WRONG = "\n    return 17\n```"
CASES = {
    "clamp": ("clamp(12, 0, 7)", 7),
    "clamp_low": ("clamp(-1, 0, 7)", 0),
    "shrink": ("shrink([1, 9], low=0, high=5)", [1, 5]),
    "double": ("double(4)", 8),
}


def calculated(files: Mapping[str, bytes], _request) -> dict[str, str]:
    """Play the tests: the drafts are ours, so they may run here."""
    module: dict[str, object] = {"__name__": "calc.core"}
    exec(compile(files[MODULE], "/workspace/" + MODULE, "exec"), module)
    wanted = re.search("import (.*)", files[TEST].decode())[1].split(", ")
    if missing := [name for name in wanted if name not in module]:
        place = f"'calc.core' (/workspace/{MODULE})"
        return {TEST: f"ImportError: cannot import name {missing[0]!r} from {place}"}
    return {f"{TEST}::test_{name}": outcome(module, *case) for name, case in CASES.items()}


def outcome(module: dict[str, object], call: str, expected: object) -> str:
    try:
        value = eval(call, module)
    except Exception as exc:
        trace, lines = exc.__traceback__, []
        while trace := trace.tb_next:
            if "/workspace/" in trace.tb_frame.f_code.co_filename:
                lines.append(f"{MODULE}:{trace.tb_lineno}: {type(exc).__name__}")
        return "\n".join([f"{type(exc).__name__}: {exc}", *lines])
    return "passed" if value == expected else f"AssertionError: assert {value} == {expected}"


def writer(**answers: str) -> ScriptedGenerator:
    """Return a generator that knows each function: greedy drafts are wrong, sampled ones are these."""

    def reply(prompt, sampling, _number):
        name = re.search(r"(?:def|class) (\w+)", prompt.prefill)
        return WRONG if sampling.temperature == 0 else answers.get(name[1] if name else "", WRONG)

    return ScriptedGenerator(reply=reply)


def broken_or(result: SandboxResult, output: str) -> SandboxResult:
    if b"<testcase" in result.collected["junit.xml"]:
        return result
    stream = CapturedStream(head=output.encode(), num_bytes=len(output))
    return SandboxResult(outcome=Outcome.EXITED, exit_code=4, stderr=stream)


@pytest.fixture
def run(tmp_path):
    async def call(generator, *, files=FILES, ladder=None, reporter=calculated, output="", **task):
        repo = make_repository(tmp_path / "repo", files)
        ladder = ladder or (Rung(strategy="line", num_candidates=8, num_suspects=1),) * 3
        edges = Edges(generator, sandbox=played(reporter), settings=settings_with(ladder))
        inner = edges.sandbox.respond
        if output:  # of a run that never got as far as a test
            edges.sandbox.respond = lambda request: broken_or(inner(request), output)
        record = await run_task(
            make_task(repo, **task), RunFolder(tmp_path / "run"), edges.dependencies(tmp_path)
        )
        return record, edges

    return call


@pytest.mark.parametrize("kind", ["fix", "implement"])
async def test_stubs_are_written_one_on_top_of_the_other_whatever_the_task_is_called(run, tmp_path, kind):
    record, edges = await run(writer(clamp=CLAMP, shrink=SHRINK), kind=kind)
    assert record.status == "solved"
    assert {s.qualname for s in record.suspects if s.is_unwritten} == {"clamp", "shrink"}
    told = any("not wrong but not written yet" in event.message for event in edges.events)
    assert told == (kind == "fix")
    first, second = record.rounds
    assert {entry.candidate.suspect.qualname for entry in first.candidates} == {"clamp", "shrink"}
    assert second.footing  # shrink needs clamp
    assert {entry.candidate.suspect.qualname for entry in second.candidates} == {"shrink"}
    git_apply(tmp_path / "repo", record.patch.diff)
    written = (tmp_path / "repo" / MODULE).read_text()
    assert "NotImplementedError" not in written
    assert written.count("def ") == 3
    for prompts, _ in edges.generator.calls:
        assert all("is not written yet" in prompt.messages[-1].content for prompt in prompts)


async def test_independent_stubs_are_written_in_one_round_and_laid_over_each_other(run):
    own = "\n    return [max(low, min(v, high)) for v in values]\n```"
    record, _ = await run(writer(clamp=CLAMP, shrink=own))
    assert (record.status, len(record.rounds)) == ("solved", 1)
    assert record.patch.candidate_id.startswith("r1m")


async def test_a_function_that_is_merely_empty_is_asked_for_line_by_line_where_the_task_is_a_repair(run):
    files = {**FILES, MODULE: STUBS.replace("raise NotImplementedError", "pass")}
    record, _ = await run(writer(), files=files)
    assert not any(suspect.is_unwritten for suspect in record.suspects)
    assert all(prompt.span for round_ in record.rounds for prompt in round_.prompts)


async def test_rubbish_ends_in_an_unsolved_run_with_reasons(run):
    rubbish = iter(
        ["", "I cannot.", "\n    pass\n```", "```\n\x00", "\n    raise NotImplementedError\n"] * 100
    )
    record, _ = await run(ScriptedGenerator(reply=lambda *_: next(rubbish)))
    assert record.status == "unsolved"
    assert all(entry.candidate.refused for round_ in record.rounds for entry in round_.candidates)


# ---------------------------------------------------------------- definitions that are not there

ABSENT = {**FILES, MODULE: '"""Numbers."""\n\n\ndef double(value):\n    return value * 2\n'}
NEW_CLAMP = "\n    return max(value2, min(value, value3))\n```"
NEW_SHRINK = "\n    return [clamp(item, low, high) for item in items]\n```"


async def test_functions_that_only_the_tests_know_are_added(run, tmp_path):
    record, edges = await run(writer(clamp=NEW_CLAMP, shrink=NEW_SHRINK), files=ABSENT)
    assert record.status == "solved", record.reason
    assert record.scaffold.added == [f"{MODULE}::clamp", f"{MODULE}::shrink"]
    assert record.scaffold.baseline.fail_to_pass == [TEST]
    names = ("clamp", "clamp_low", "shrink")
    assert record.baseline.fail_to_pass == [f"{TEST}::test_{name}" for name in names]
    assert record.baseline.pass_to_pass == [f"{TEST}::test_double"]
    git_apply(tmp_path / "repo", record.patch.diff)
    written = (tmp_path / "repo" / MODULE).read_text()
    assert "TODO" not in written
    assert written.startswith(ABSENT[MODULE] + "\n\ndef clamp(value, value2, value3):")
    [prompt] = [p for p in edges.generator.calls[0][0] if p.prefill.startswith("```python\ndef clamp(")]
    assert prompt.prefill == "```python\ndef clamp(value, value2, value3):"
    text = prompt.messages[-1].content
    assert "clamp(12, 0, 7)\nclamp(-1, 0, 7)\n" in text
    assert "NotImplementedError" not in text  # a small model would copy it
    told = [event.message for event in edges.events]
    assert any("do not exist yet and are to be written" in message for message in told)


async def test_what_a_test_imports_from_other_tests_gets_no_stub(run):
    place = "'tests.tools' (/workspace/tests/tools.py)"
    sandbox = {TEST: f"ImportError: cannot import name 'helper' from {place}"}
    files = {**FILES, "tests/tools.py": "x = 1\n"}
    record, _ = await run(writer(), files=files, reporter=lambda *_: sandbox)
    assert record.scaffold is None


async def test_a_conftest_that_asks_for_what_is_not_there_has_a_result_for_each_test_then(run):
    def reporter(files, request):
        if b"def clamp" in files[MODULE]:
            return calculated({**files, TEST: FILES[TEST].encode()}, request)
        return {}

    place = f"'calc.core' (/workspace/{MODULE})"
    output = (
        "ImportError while loading conftest '/workspace/tests/conftest.py'.\n"
        f"tests/conftest.py:1: in <module>\nE   ImportError: cannot import name 'clamp' from {place}"
    )
    files = {**FILES, MODULE: STUBS.replace("def clamp", "def _clamp"), "tests/conftest.py": ""}
    record, _ = await run(
        writer(clamp=NEW_CLAMP, shrink=SHRINK), files=files, reporter=reporter, output=output
    )
    assert record.scaffold.baseline.fail_to_pass == ["command"]
    assert record.scaffold.added == [f"{MODULE}::clamp"]
    assert f"{TEST}::test_clamp" in record.baseline.fail_to_pass
    assert record.status == "solved"


async def test_what_stays_unwritten_leaves_no_patch(run):
    record, _ = await run(writer(clamp=NEW_CLAMP), files=ABSENT)
    assert (record.status, record.patch) == ("unsolved", None)
    assert "2 of 3 tests" in record.reason


async def test_a_run_over_stubs_that_is_cut_goes_on_with_them(run, tmp_path):
    class CutError(Exception):
        pass

    generator = writer(clamp=NEW_CLAMP, shrink=NEW_SHRINK)
    repo = make_repository(tmp_path / "again", ABSENT)
    edges = Edges(generator, sandbox=played(calculated))
    edges.settings = settings_with((Rung(strategy="line", num_candidates=8, num_suspects=1),) * 3)
    seen: set[str] = set()

    def die_once(event) -> None:
        if event.message not in seen and event.data.get("stage") in ("localise", "test", "stack", "select"):
            seen.add(event.message)
            raise CutError

    edges.events = type("Sink", (), {"append": staticmethod(die_once)})()
    record = None
    while record is None:
        try:
            folder = RunFolder(tmp_path / "cut")
            record = await run_task(make_task(repo), folder, edges.dependencies(tmp_path))
        except CutError:
            continue
    assert len(seen) >= 4
    whole, other = await run(writer(clamp=NEW_CLAMP, shrink=NEW_SHRINK), files=ABSENT)
    assert record.patch == whole.patch
    assert len(edges.sandbox.requests) == len(other.sandbox.requests)  # nothing was paid for twice
