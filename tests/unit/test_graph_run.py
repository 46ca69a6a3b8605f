"""A task walks the graph to a patch or to a reason, and never to silence."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

import pytest

from pipeline.config import Rung
from pipeline.core import (
    Candidate,
    CapturedStream,
    ContextBundle,
    Limits,
    Outcome,
    Prompt,
    Sampling,
    SandboxLimits,
    SandboxResult,
    Step,
    Suspect,
    VerdictKind,
)
from pipeline.exceptions import InputError, NothingToRepairError, PrepareError, SandboxError
from pipeline.graph.nodes.apply import apply
from pipeline.graph.run import make_tools, run_task
from pipeline.graph.state import Progress
from pipeline.runs import BaselineRecord, CandidateRecord, PromptRecord, RoundRecord, RunFolder, RunRecord
from pipeline.snapshot import Snapshot
from pipeline.telemetry import Action
from pipeline.testing import RecordingSandbox, ScriptedGenerator
from tests.unit.junit import pytest_result
from tests.unit.planner import (
    FILES,
    MODULE,
    PROSE,
    RIGHT,
    SOURCE,
    TEST,
    WRONG,
    Edges,
    calculated,
    files_of,
    git_apply,
    make_repository,
    make_task,
    one_rung,
    played,
    selected,
    settings_with,
)

ADD = f"{TEST}::test_add"


@pytest.fixture
def repo(tmp_path):
    return make_repository(tmp_path / "repo")


@pytest.fixture
def run(tmp_path, repo):
    """Run the task of the small repository with these edges."""

    async def call(edges: Edges, *, name: str = "run", **task):
        folder = RunFolder(tmp_path / "runs" / name)
        return await run_task(make_task(task.pop("repo", repo), **task), folder, edges.dependencies(tmp_path))

    return call


def drafts(*texts: str) -> Edges:
    return Edges(ScriptedGenerator(reply=list(texts)))


async def test_solves_in_the_first_round(run, repo, tmp_path):
    record = await run(drafts(WRONG, RIGHT, WRONG, WRONG))
    assert (record.status, record.patch.candidate_id) == ("solved", "r1c01")
    assert record.patch.paths == (MODULE,)
    git_apply(repo, record.patch.diff)
    assert (repo / MODULE).read_text() == SOURCE.replace("a - b", "a + b")
    assert (tmp_path / "runs" / "run" / "patch.diff").read_text() == record.patch.diff


async def test_the_record_tells_the_whole_story(run, tmp_path):
    record = await run(drafts(WRONG, RIGHT))
    assert RunFolder(tmp_path / "runs" / "run").load() == record
    assert record.baseline.fail_to_pass == [ADD]
    assert sorted(record.baseline.pass_to_pass) == [f"{TEST}::test_add_zero", f"{TEST}::test_double"]
    assert record.suspects[0].qualname == "add"
    [round_] = record.rounds
    assert round_.prompts[0].prompt.prefill == "```python\ndef add(a, b):"
    wrong, right = round_.candidates[:2]
    assert wrong.completion.text == WRONG
    assert wrong.verdict.kind is VerdictKind.UNCHANGED
    assert "assert 2 == 3" in wrong.verdict.feedback
    assert right.tests_changed == {ADD: "passed"}
    assert set(record.seconds_by_stage) == {
        *(
            "prepare",
            "reproduce",
            "scaffold",
            "localise",
            "pack",
            "draft",
            "apply",
            "test",
            "combine",
            "judge",
            "select",
            "report",
        )
    }
    assert (
        record.num_sandbox_runs == 3 + 1 + 2
    )  # baseline twice and coverage; wrong fast; right fast and full
    assert record.finished_at is not None


async def test_functions_that_the_task_names_are_the_only_suspects(run):
    record = await run(drafts("\n    return x\n", "\n    return x * 3\n"), functions=(f"{MODULE}::double",))
    assert [(s.qualname, s.evidence) for s in record.suspects] == [("double", ("named by the task",))]
    assert {c.candidate.suspect.qualname for r in record.rounds for c in r.candidates} == {"double"}
    with pytest.raises(InputError, match="no function"):
        await run(drafts(RIGHT), name="other", functions=(f"{MODULE}::halve",))


async def test_greedy_and_sampled_are_one_call_each(run):
    edges = drafts(WRONG)
    await run(edges)
    kinds = [(s.temperature, s.num_samples, len(prompts)) for prompts, s in edges.generator.calls]
    assert kinds == [(0.0, 1, 1), (0.8, 3, 1)]


async def test_candidates_are_spread_over_suspects(run):
    both = {ADD: "AssertionError: no", f"{TEST}::test_double": "AssertionError: no"}
    edges = Edges(ScriptedGenerator(reply=[WRONG]), sandbox=played(lambda *_: both))
    edges.settings = settings_with(one_rung(num_candidates=6, num_suspects=2))
    record = await run(edges)
    qualnames = [entry.candidate.suspect.qualname for entry in record.rounds[0].candidates]
    assert sorted(qualnames) == ["add"] * 3 + ["double"] * 3


async def test_climbs_the_ladder_until_a_rung_solves(run):
    def reply(_prompt, sampling, _number):
        return RIGHT if sampling.recurrence_depth == 2 else WRONG

    edges = Edges(ScriptedGenerator(reply=reply))
    edges.settings = settings_with((Rung(num_candidates=2), Rung(num_candidates=2, recurrence_depth=2)))
    record = await run(edges)
    assert (record.status, len(record.rounds)) == ("solved", 2)
    assert record.rounds[1].candidates[0].candidate.recurrence_depth == 2
    assert [e.data["recurrence_depth"] for e in edges.events if e.action is Action.ESCALATED] == [2]


async def test_a_feedback_rung_shows_the_failing_attempt(run):
    def reply(prompt, _sampling, _number):
        return RIGHT if "a * b" in prompt.messages[-1].content else WRONG

    edges = Edges(ScriptedGenerator(reply=reply))
    edges.settings = settings_with((Rung(num_candidates=1), Rung(num_candidates=1, feedback=True)))
    record = await run(edges)
    assert record.status == "solved"
    assert "assert 2 == 3" in record.rounds[1].prompts[0].prompt.messages[-1].content


async def test_a_mendable_error_is_shown_before_wrong_logic(run):
    texts = iter([WRONG, "\n    return a + b.undefined\n", RIGHT, RIGHT])
    edges = Edges(ScriptedGenerator(reply=lambda *_: next(texts)))
    edges.settings = settings_with((Rung(num_candidates=2), Rung(num_candidates=1, feedback=True)))
    record = await run(edges)
    assert "AttributeError" in record.rounds[1].prompts[0].prompt.messages[-1].content


async def test_gives_up_at_the_ladders_end_with_a_reason(run):
    edges = drafts(WRONG)
    record = await run(edges)
    assert record.status == "unsolved"
    assert "ladder" in record.reason
    assert "fixed 0 of 1" in record.reason
    assert [e.data["reason"] for e in edges.events if e.action is Action.GAVE_UP] == [record.reason]
    assert record.patch is None


LADDER = (Rung(num_candidates=4), Rung(num_candidates=4), Rung(num_candidates=4))


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"num_rounds": 2}, "num_rounds"),
        ({"num_candidates": 6}, "num_candidates"),
        ({"num_tokens": 150}, "num_tokens"),
        ({"wall_seconds": 0.001}, "wall_seconds"),
    ],
)
async def test_a_limit_that_is_hit_is_named(run, limits, name):
    edges = Edges(ScriptedGenerator(reply=lambda _p, s, i: f"\n    return a * b + {s.seed + i + 100}\n"))
    edges.settings = settings_with(LADDER)
    record = await run(edges, limits=Limits(**limits))
    assert record.status == "unsolved"
    assert f"limit {name} = " in record.reason


async def test_candidates_never_exceed_their_limit(run):
    edges = Edges(ScriptedGenerator(reply=lambda _p, s, i: f"\n    return a * b + {s.seed + i + 100}\n"))
    edges.settings = settings_with(LADDER)
    record = await run(edges, limits=Limits(num_candidates=6))
    assert sum(len(round_.candidates) for round_ in record.rounds) == 6


async def test_depth_is_held_to_its_limit_and_the_reason_says_so(run):
    edges = drafts(WRONG)
    edges.settings = settings_with(one_rung(recurrence_depth=4))
    record = await run(edges, limits=Limits(max_recurrence_depth=2))
    assert record.rounds[0].rung.recurrence_depth == 2
    assert "max_recurrence_depth = 2" in record.reason
    assert any("held to 2" in e.message for e in edges.events if e.action is Action.WARNING)


async def test_a_round_that_names_no_depth_drafts_at_the_depth_that_the_model_was_trained_for(run):
    edges = Edges(ScriptedGenerator(reply=lambda *_: RIGHT, recurrence_depth=3))
    edges.settings = settings_with(one_rung(recurrence_depth=0))
    record = await run(edges)
    assert {sampling.recurrence_depth for _, sampling in edges.generator.calls} == {3}
    assert {c.candidate.recurrence_depth for c in record.rounds[0].candidates} == {3}


async def test_duplicates_are_dropped_before_testing(run):
    edges = drafts(WRONG, "\n    # other words\n    return (a * b)\n", WRONG, WRONG)
    record = await run(edges)
    refused = [entry.candidate.refused for entry in record.rounds[0].candidates]
    assert refused == ["", *["the same program as r1c00"] * 3]
    assert record.num_sandbox_runs == 3 + 1


async def test_prose_is_refused_with_a_reason_and_costs_no_run(run):
    edges = drafts(PROSE)
    record = await run(edges)
    assert record.status == "unsolved"
    assert all(entry.candidate.refused for entry in record.rounds[0].candidates)
    assert record.num_sandbox_runs == 3


async def test_a_solved_round_skips_the_candidates_that_were_not_started(run):
    record = await run(drafts(RIGHT, WRONG, "\n    return 3\n", "\n    return 4\n"))
    assert [entry.verdict is not None for entry in record.rounds[0].candidates] == [True, False, False, False]


class Slow(RecordingSandbox):
    """Answers for one candidate only after another one has been tested to its end, or was stopped."""

    async def run(self, request):
        name = request.run_id.removeprefix("run-")
        if name.startswith(self.slow):
            await self.is_over.wait()
        try:
            await asyncio.sleep(0)
            return await super().run(request)
        finally:
            if name.startswith(f"{self.quick}-full"):
                self.is_over.set()


LONG = "\n    total = a\n    total = total + b\n    return total\n"


@pytest.mark.parametrize("num_parallel", [1, 2, 3])
async def test_the_first_draft_that_resolves_wins_however_many_are_tested_at_once(run, num_parallel):
    edges = drafts(WRONG, LONG, RIGHT)
    edges.sandbox = Slow(respond=edges.sandbox.respond)
    edges.sandbox.slow = "r1c01" if num_parallel > 1 else "nobody"
    edges.sandbox.quick, edges.sandbox.is_over = "r1c02", asyncio.Event()
    edges.settings = settings_with(one_rung(num_candidates=3), num_parallel=num_parallel)
    record = await run(edges)
    assert record.patch.candidate_id == "r1c01"
    assert [entry.verdict is not None for entry in record.rounds[0].candidates] == [True, True, False]


async def test_what_is_tested_behind_the_first_that_resolves_is_stopped(run):
    edges = drafts(RIGHT, WRONG)
    edges.sandbox = Slow(respond=edges.sandbox.respond)
    edges.sandbox.slow, edges.sandbox.quick, edges.sandbox.is_over = "r1c01", "nobody", asyncio.Event()
    edges.settings = settings_with(one_rung(num_candidates=2), num_parallel=2)
    record = await run(edges)  # would wait for ever for the second
    assert record.patch.candidate_id == "r1c00"


async def test_hunks_that_the_tests_do_not_need_are_dropped(run, tmp_path):
    source = SOURCE.replace("    return a - b", "    # keep\n    first = a\n\n    return first - b")
    repo = make_repository(tmp_path / "other", {**FILES, MODULE: source})
    edges = drafts("\n    first = a\n\n    return first + b\n")  # the comment went, which nobody asked for
    record = await run(edges, repo=repo)
    assert "keep" not in [line[1:].strip() for line in record.patch.diff.splitlines() if line.startswith("-")]
    assert record.patch.num_changed_lines == 2


async def test_crlf_and_latin1_survive_to_the_patch(run, tmp_path):
    source = ("# -*- coding: latin-1 -*-\n# é\n" + SOURCE).replace("\n", "\r\n").encode("latin-1")
    repo = make_repository(tmp_path / "other", {**FILES, MODULE: source})
    record = await run(drafts(RIGHT), repo=repo)
    git_apply(repo, record.patch.diff)
    assert (repo / MODULE).read_bytes() == source.replace(b"a - b", b"a + b")


async def test_trusted_files_are_laid_over_every_candidate(run):
    edges = drafts(WRONG)
    await run(edges)
    fast = edges.sandbox.requests[-1]
    *_, trusted = fast.layers
    only_trusted = files_of(SandboxRequestLike((trusted,)))
    assert set(only_trusted) == {TEST}
    assert files_of(fast)[MODULE] != SOURCE.encode()


class SandboxRequestLike:
    def __init__(self, layers):
        self.layers = layers


async def test_tests_are_never_suspects(run, tmp_path):
    files = {TEST: "def add(a, b):\n    return a - b\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"}
    repo = make_repository(tmp_path / "other", files)
    edges = Edges(ScriptedGenerator(reply=[RIGHT]), sandbox=played(lambda *_: {ADD: "AssertionError: no"}))
    record = await run(edges, repo=repo)
    assert (record.status, record.rounds) == ("unsolved", [])
    assert "no function" in record.reason


async def test_passing_tests_leave_nothing_to_repair(run, tmp_path):
    repo = make_repository(tmp_path / "other", {**FILES, MODULE: SOURCE.replace("a - b", "a + b")})
    with pytest.raises(NothingToRepairError):
        await run(drafts(WRONG), repo=repo)
    assert RunFolder(tmp_path / "runs" / "run").load().status == "nothing_to_repair"


async def test_flaky_tests_are_left_out(run):
    runs = iter(range(10))

    def flaky(files, request):
        outcomes = dict(calculated(files, request))
        if next(runs) == 0:
            outcomes[f"{TEST}::test_double"] = "AssertionError: sometimes"
        return outcomes

    edges = Edges(ScriptedGenerator(reply=[RIGHT]), sandbox=played(flaky))
    record = await run(edges)
    assert record.status == "solved"
    assert record.baseline.fail_to_pass == [ADD]
    assert f"{TEST}::test_double" not in record.baseline.pass_to_pass


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        (f"{TEST}::test_double", NothingToRepairError, "passes already"),
        (f"{TEST}::test_nowhere", InputError, "runs no test"),
    ],
)
async def test_a_named_target_must_exist_and_fail(run, wanted, error, words):
    with pytest.raises(error, match=words):
        await run(drafts(WRONG), fail_to_pass=(wanted,))


async def test_a_named_target_among_failing_ones_is_the_only_target(run):
    record = await run(drafts(RIGHT), fail_to_pass=(TEST,))
    assert record.baseline.fail_to_pass == [ADD]


async def test_one_named_target_that_passes_is_named(run):
    with pytest.raises(InputError, match="test_double passes already"):
        await run(drafts(WRONG), fail_to_pass=(ADD, f"{TEST}::test_double"))


async def test_a_missing_dependency_is_the_environments_failure(run, tmp_path):
    sandbox = played(lambda *_: {TEST: "ModuleNotFoundError: No module named 'numpy'"})
    with pytest.raises(PrepareError, match="numpy"):
        await run(Edges(ScriptedGenerator(reply=[RIGHT]), sandbox=sandbox))
    assert RunFolder(tmp_path / "runs" / "run").load().status == "failed"


async def test_a_syntax_error_in_the_target_is_repaired(run, tmp_path):
    broken = SOURCE.replace("return a - b", "return a +")
    repo = make_repository(tmp_path / "other", {**FILES, MODULE: broken})

    def reporter(files, request):
        outcomes = calculated(files, request)
        if TEST in outcomes:
            return {TEST: f'  File "/workspace/{MODULE}", line 6\nE   SyntaxError: invalid syntax'}
        return outcomes

    edges = Edges(ScriptedGenerator(reply=[RIGHT]), sandbox=played(reporter))
    record = await run(edges, repo=repo)
    assert record.baseline.fail_to_pass == [TEST]
    assert record.status == "solved"
    git_apply(repo, record.patch.diff)
    assert "return a + b" in (repo / MODULE).read_text()


async def test_a_conftest_that_the_code_breaks_makes_the_command_the_target(run, tmp_path):
    def respond(request):
        outcomes = calculated(files_of(request), request)
        if outcomes[ADD] == "passed":
            return pytest_result(selected(request, outcomes))
        output = (
            "ImportError while loading conftest '/workspace/conftest.py'.\n"
            f"{MODULE}:6: in add\nE   ValueError: broken\n"
        )
        return pytest_result({}, exit_code=4, collected={}, output=output)

    edges = Edges(ScriptedGenerator(reply=[RIGHT]), sandbox=RecordingSandbox(respond=respond))
    record = await run(edges)
    assert (record.baseline.fail_to_pass, record.status) == (["command"], "solved")


async def test_another_command_is_judged_by_its_exit_code(run):
    def respond(request):
        good = calculated(files_of(request), request)[ADD] == "passed"
        frame = f'  File "/workspace/{MODULE}", line 6, in add\n'
        trace = f"Traceback (most recent call last):\n{frame}ValueError: x\n"
        out = b"" if good else trace.encode()
        return SandboxResult(
            outcome=Outcome.EXITED,
            exit_code=0 if good else 1,
            stderr=CapturedStream(head=out, num_bytes=len(out)),
        )

    edges = Edges(ScriptedGenerator(reply=[WRONG, RIGHT]), sandbox=RecordingSandbox(respond=respond))
    record = await run(edges, test_command="python -m unittest")
    assert (record.baseline.fail_to_pass, record.status) == (["command"], "solved")


HANG = (
    "Timeout (0:00:30)!\nThread 0x7f (most recent call first):\n"
    f'  File "/workspace/{MODULE}", line 6 in add\n  File "/workspace/{TEST}", line 5 in test_add\n'
)


async def test_a_hanging_test_counts_as_failing_and_the_rest_still_runs(run):
    def respond(request):
        outcomes = calculated(files_of(request), request)
        deselected = any(word == f"--deselect={ADD}" for word in request.argv)
        if outcomes[ADD] != "passed" and not deselected:
            return pytest_result({}, outcome=Outcome.TIMED_OUT, exit_code=None, collected={}, output=HANG)
        shown = {k: v for k, v in outcomes.items() if not (deselected and k == ADD)}
        return pytest_result(selected(request, shown))

    edges = Edges(ScriptedGenerator(reply=[WRONG, RIGHT]), sandbox=RecordingSandbox(respond=respond))
    record = await run(edges)
    assert (record.baseline.fail_to_pass, record.status) == ([ADD], "solved")
    assert len(record.baseline.pass_to_pass) == 2
    assert record.rounds[0].candidates[0].verdict.kind is VerdictKind.TIMED_OUT


async def test_a_suite_that_hangs_nobody_knows_where_is_refused(run):
    sandbox = RecordingSandbox(
        respond=lambda _: pytest_result({}, outcome=Outcome.TIMED_OUT, exit_code=None, collected={})
    )
    with pytest.raises(InputError, match="did not end within"):
        await run(Edges(ScriptedGenerator(reply=[RIGHT]), sandbox=sandbox))


async def test_a_broken_sandbox_is_no_verdict(run):
    sandbox = RecordingSandbox(
        respond=lambda _: SandboxResult(outcome=Outcome.INFRA_ERROR, error="engine gone")
    )
    with pytest.raises(SandboxError, match="engine gone"):
        await run(Edges(ScriptedGenerator(reply=[RIGHT]), sandbox=sandbox))


async def test_a_candidate_that_runs_far_longer_than_the_base_is_stopped(run):
    edges = drafts(WRONG)
    await run(edges, limits=Limits(sandbox=SandboxLimits(wall_seconds=500, cpu_seconds=400)))
    first, last = edges.sandbox.requests[0].limits, edges.sandbox.requests[-1].limits
    assert (first.wall_seconds, first.cpu_seconds) == (500, 400)
    assert last.wall_seconds == pytest.approx(12.5)  # five times the base, and ten
    assert last.cpu_seconds == pytest.approx(5.0)  # five times the base, and three


async def test_no_drafting_before_the_task_is_known_to_be_sound(run):
    edges = drafts(RIGHT)
    with pytest.raises(InputError):
        await run(edges, test_command="pytest | cat")
    assert edges.generator.calls == []
    assert edges.sandbox.requests == []


TWO_LINES = SOURCE.replace("    return a - b", "    total = a - b\n    return total")


async def test_a_line_rung_asks_for_each_statement_and_the_tests_tell_which_was_wrong(run, tmp_path):
    def reply(prompt, _sampling, _number):
        return "total = a + b" if "```python\n    total = a - b\n```" in prompt.prefill else "return total"

    repo = make_repository(tmp_path / "other", {**FILES, MODULE: TWO_LINES})
    edges = Edges(ScriptedGenerator(reply=reply), settings=settings_with(one_rung(strategy="line")))
    record = await run(edges, repo=repo)
    assert record.status == "solved"
    assert record.patch.num_changed_lines == 2
    first, second = record.rounds[0].prompts
    assert (first.span, second.span) == ((3, 3), (4, 4))
    assert first.prompt.messages == second.prompt.messages  # one prefix for the engine's cache
    copies = [e.candidate.refused for e in record.rounds[0].candidates if e.prompt_number == 1]
    assert copies == ["it changes nothing in the program"] * 2


def wavering(text):
    """Tell a text in steps of one word, at each of which a plus was as likely to the model."""
    return tuple(Step(word, -0.1, ((" +", -0.9), (" **", -1.2))) for word in re.findall(r"\s*\S+", text))


async def test_a_branch_round_leaves_the_greedy_copy_where_the_model_wavered(run):
    def reply(prompt, _sampling, _number):
        begun = prompt.prefill.rpartition("```python\n")[2]
        return " b" if begun.endswith(("+", "**")) else "return a - b"

    generator = ScriptedGenerator(reply=reply, steps=wavering)
    ladder = one_rung(strategy="line", decoding="branch", num_candidates=9)
    record = await run(Edges(generator, settings=settings_with(ladder)))
    assert record.status == "solved"
    branches = [e.branch for e in record.rounds[0].candidates]
    assert branches[:3] == ["", " +", "return +"]  # the greedy answer, then the likeliest branches
    winner = next(e for e in record.rounds[0].candidates if e.verdict and e.verdict.kind == "resolved")
    assert (winner.branch, winner.completion.text) == ("return a +", "return a + b")
    assert not any(entry.completion.steps for entry in record.rounds[0].candidates)


async def test_no_branch_is_drafted_in_two_rounds(run):
    rung = one_rung(strategy="line", decoding="branch", num_candidates=3)[0]
    ladder = (rung, rung.model_copy(update={"num_candidates": 4}))
    generator = ScriptedGenerator(reply=lambda *_: "return a - b", steps=wavering)
    record = await run(Edges(generator, settings=settings_with(ladder)))
    drafted = [entry.branch for round_ in record.rounds for entry in round_.candidates]
    assert len(drafted) == 7
    assert len(set(drafted)) == 7


async def test_a_splice_round_tests_what_the_model_nearly_said_and_pays_for_the_copies_alone(run):
    generator = ScriptedGenerator(reply=lambda *_: "return a - b", steps=wavering)
    ladder = one_rung(strategy="line", decoding="splice", num_candidates=9)
    record = await run(Edges(generator, settings=settings_with(ladder)))
    assert record.status == "solved"
    copy, *splices = record.rounds[0].candidates
    assert copy.candidate.refused == "it changes nothing in the program"
    assert "return a + b" in [entry.completion.text for entry in splices]
    assert sum(entry.completion.num_completion_tokens for entry in splices) == 0
    assert not any(entry.candidate.refused.startswith("the same program") for entry in splices)
    assert len(generator.calls) == 1


async def test_an_answer_that_leaves_the_statement_is_turned_back_and_the_statement_spliced_all_the_same(run):
    def reply(prompt, _sampling, _number):
        begun = prompt.prefill.rpartition("```python\n")[2]
        return " - b" if begun.endswith(" a") else "return b"

    generator = ScriptedGenerator(reply=reply, steps=wavering)
    ladder = one_rung(strategy="line", decoding="splice", num_candidates=12)
    record = await run(Edges(generator, settings=settings_with(ladder)))
    assert record.status == "solved"
    first, turned, *splices = record.rounds[0].candidates
    assert (first.completion.text, turned.branch, turned.completion.text) == (
        "return b",
        "return a",
        "return a - b",
    )
    winner = next(entry for entry in splices if entry.verdict and entry.verdict.kind == "resolved")
    assert (winner.completion.text, winner.completion.num_completion_tokens) == ("return a + b", 0)


@pytest.mark.parametrize("decoding", ["branch", "splice"])
async def test_where_the_server_tells_no_alternatives_a_round_samples(run, decoding):
    generator = ScriptedGenerator(reply=["return a - b", "return a * b", "return a + b"])
    ladder = one_rung(strategy="line", decoding=decoding, num_candidates=3)
    record = await run(Edges(generator, settings=settings_with(ladder)))
    assert record.status == "solved"
    assert [s.num_samples for _, s in generator.calls] == [1, 2]


async def test_a_suspect_among_the_tests_is_refused_at_the_gate(tmp_path, repo):
    """Whatever a later kind of localisation may propose."""
    prompt = PromptRecord(suspect=IN_TESTS, prompt=Prompt((), prefill="```python\n"), num_tokens=1)
    [completion] = (await ScriptedGenerator(reply=[RIGHT]).generate([prompt.prompt], Sampling()))[0]
    candidate = Candidate(
        candidate_id="r1c00",
        round=1,
        suspect=IN_TESTS,
        sampling_seed=0,
        temperature=0.0,
        recurrence_depth=1,
    )
    entry = CandidateRecord(candidate=candidate, prompt_number=0, completion=completion)
    progress = Progress(
        record=RunRecord(
            run_id="r",
            status="running",
            task=make_task(repo),
            settings={},
            started_at=datetime(2026, 1, 1, tzinfo=UTC),
            baseline=BaselineRecord(
                fail_to_pass=[ADD], pass_to_pass=[], failures=[], output="", wall_seconds=1.0
            ),
            rounds=[RoundRecord(number=1, rung=Rung(), prompts=[prompt], candidates=[entry])],
        ),
        bundles=[ContextBundle(suspect=IN_TESTS, definition="", header="")],
    )
    edges = drafts(RIGHT)
    tools = make_tools(make_task(repo), RunFolder(tmp_path / "run"), edges.dependencies(tmp_path))
    tools.snapshot = Snapshot(repo, "")
    await apply(tools, progress)
    assert progress.round.candidates[0].candidate.refused == f"{TEST} belongs to the tests"
    assert progress.drafted == {}


IN_TESTS = Suspect(path=TEST, qualname="test_add", start_line=4, end_line=5, score=1.0)


async def test_what_may_fit_the_tests_only_is_tested_last_and_says_so(run):
    doubtful = "\n    if a == b:\n        return 3\n    return a + b\n"  # test_add has a 3, the function none
    record = await run(drafts(doubtful, WRONG, RIGHT, PROSE))
    first, wrong, *_ = record.rounds[0].candidates
    assert "which the failing test expects" in first.candidate.overfit_risk
    assert (record.patch.candidate_id, first.verdict) == ("r1c02", None)
    assert wrong.verdict is not None
    record = await run(drafts(doubtful), name="alone")
    assert record.status == "solved"
    assert "read it with care" in record.reason


async def test_an_answer_to_the_tests_own_input_costs_no_run(run):
    record = await run(drafts("\n    if a == 1 and b == 2:\n        return 3\n    return a - b\n"))
    assert "the failing test expects" in record.rounds[0].candidates[0].candidate.refused
    assert record.num_sandbox_runs == 3
