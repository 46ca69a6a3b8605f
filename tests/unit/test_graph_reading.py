"""A run may have the model read the tree for the fault: what that says is used, told and paid for once."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pipeline.config import Settings
from pipeline.core import Prompt, Sampling, Step
from pipeline.exceptions import GeneratorError
from pipeline.graph.run import run_task
from pipeline.report import render
from pipeline.runs import RunFolder, RunRecord
from pipeline.telemetry import Action
from pipeline.testing import ScriptedGenerator
from tests.unit.planner import MODULE, RIGHT, Edges, make_repository, make_task, one_rung

ADD, DOUBLE = f"{MODULE}::add", f"{MODULE}::double"


class CutError(Exception):
    """The process dies here."""


def is_judgement(prompt: Prompt) -> bool:
    return "A piece of a repository:" in prompt.messages[-1].content


def said_yes(_prompt: Prompt) -> str:
    return "Yes"


def edges(judge=said_yes, *, localise_by: str = "descent", **reading) -> Edges:
    """Return edges whose model drafts the right line, and judges as it is told."""

    def reply(prompt: Prompt, _sampling: Sampling, _number: int) -> str:
        return judge(prompt) if is_judgement(prompt) else RIGHT

    settings = Settings.model_validate(
        {"planner": {"ladder": one_rung(), "localise_by": localise_by}, "reading": reading}
    )
    return Edges(ScriptedGenerator(reply, steps=first_token), settings=settings)


def first_token(said: str) -> tuple[Step, ...]:
    """Return the chances of a yes or no."""
    if said not in ("Yes", "No"):
        return ()
    other = "No" if said == "Yes" else "Yes"
    return (Step(said, math.log(0.9), ((other, math.log(0.1)),)),)


def judgements(made: Edges) -> list[Prompt]:
    return [prompt for prompts, _ in made.generator.calls for prompt in prompts if is_judgement(prompt)]


@pytest.fixture
def run(tmp_path):
    """Run the task of the small repository with these edges."""
    repo = make_repository(tmp_path / "repo")

    async def call(made: Edges, name: str = "run", **task) -> RunRecord:
        kept = {"parts_path": tmp_path / "parts.sqlite", "scores_path": tmp_path / "scores.sqlite"}
        dependencies = replace(made.dependencies(tmp_path / "clones"), **kept)
        return await run_task(make_task(repo, **task), RunFolder(tmp_path / "runs" / name), dependencies)

    return call


async def test_a_run_that_reads_lands_its_patch_and_says_what_was_read_and_why(run):
    def only_double(prompt: Prompt) -> str:
        text = prompt.messages[-1].content
        return "Yes" if "def double" in text and "add goes wrong" in text else "No"

    record = await run(edges(only_double), statement="add goes wrong")

    assert record.status == "solved"
    judgements = record.reading.judgements
    assert (record.reading.reason, set(judgements)) == ("", {ADD, DOUBLE})
    assert judgements[DOUBLE] == -judgements[ADD] > 0
    told = {suspect.qualname: suspect.evidence for suspect in record.suspects}
    assert f"the model's judgement {judgements[ADD]:+.2f}" in told["add"]
    assert "called by a failing test" in told["add"]
    assert [event.kind for event in record.reading.events][:2] == ["question", "plan"]


async def test_what_the_reading_cost_is_in_the_totals_and_in_the_report(run):
    made = edges(lambda prompt: "Yes" if "def double" in prompt.messages[-1].content else "No")
    record = await run(made)

    reading, drafted = record.reading, sum(c.num_completion_tokens for c in record.completions)
    assert reading.num_calls == len(judgements(made)) == 2  # one for each function
    assert reading.num_prompt_tokens == sum(await made.generator.count_tokens(judgements(made)))
    assert record.num_completion_tokens == drafted + reading.num_completion_tokens > drafted
    page = render(record)
    assert "How the tree was read" in page
    assert f"{DOUBLE}: +2.20" in page


async def test_the_query_is_the_issue_and_what_the_failing_tests_say(run):
    made = edges()
    await run(made, statement="sums are wrong")

    asked = judgements(made)[0].messages[-1].content
    assert "sums are wrong" in asked
    assert "test_add fails: AssertionError: assert -1 == 3" in asked


async def test_by_default_no_model_is_asked_where_the_fault_is(run):
    made = edges(localise_by="words")

    assert (await run(made)).reading is None
    assert judgements(made) == []


async def test_functions_that_the_task_names_need_no_reading(run):
    made = edges()
    record = await run(made, functions=(ADD,))

    assert (record.status, record.reading) == ("solved", None)
    assert judgements(made) == []


def failing(_prompt: Prompt) -> str:
    raise GeneratorError("the engine is gone")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (edges(num_calls=1), "up to 2 calls of the model, and 1 are left"),
        (edges(num_tokens=50), "judging ends here: 2 calls and "),
        (edges(wall_seconds=1e-9), "judging ends here"),
        (edges(failing), "2 pieces not judged: the engine is gone"),
        (edges(lambda _: "Maybe"), "neither yes nor no"),
    ],
    ids=["calls", "tokens", "time", "engine", "chances"],
)
async def test_where_reading_fails_the_words_count_and_the_run_says_why(run, made, reason):
    by_words = await run(edges(localise_by="words"), "words")
    record = await run(made)

    assert record.status == "solved"
    assert record.suspects == by_words.suspects
    assert reason in record.reading.reason
    assert [e for e in made.events if e.action is Action.WARNING and reason in e.message]
    assert "It has no say in the suspects" in render(record)


async def test_a_run_that_is_cut_after_its_reading_asks_nothing_twice_and_accounts_for_all(run):
    whole, cut, deaths = await run(edges(), "whole"), edges(), []

    def die_once(event) -> None:
        if event.message.startswith("localise took") and not deaths:
            deaths.append(event)
            raise CutError

    cut.events = type("Sink", (), {"append": staticmethod(die_once)})()
    with pytest.raises(CutError):
        await run(cut, "cut", statement="another query")
    record = await run(cut, "cut", statement="another query")

    assert record.status == "solved"
    assert len(judgements(cut)) == record.reading.num_calls == whole.reading.num_calls
    assert not any(event.is_cached for event in record.reading.events)


async def test_another_run_of_the_same_task_pays_for_no_judgement_again(run):
    first, made = await run(edges(), "first"), edges()
    again = await run(made, "second")

    assert judgements(made) == []
    assert (again.reading.num_calls, again.reading.judgements) == (0, first.reading.judgements)
    assert again.suspects == first.suspects
