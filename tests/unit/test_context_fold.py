"""What a fold promises: every part is read once, the calls are known before, and what is lost is told."""

from __future__ import annotations

import re
import time

import pytest

from pipeline.context.descent.fold import FoldSettings, fold, num_calls_at_most
from pipeline.context.reading import Answer, Ending, Query
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import BudgetSpentError, Purse
from pipeline.context.tree.index import index
from pipeline.context.units import units
from pipeline.core import Budget, Prompt, Sampling
from pipeline.exceptions import GeneratorError
from pipeline.snapshot import Snapshot
from pipeline.testing import ScriptedGenerator

_NUM_LINES = 3000


def counting(prompt: Prompt, _sampling: Sampling, _number: int) -> str:
    """Count what a part holds, and add up what notes say."""
    text = prompt.messages[-1].content
    if "A part of the input" in text:
        num = text.count(" is red")
        return f"red: {num}" if num else "NOTHING"
    return f"red: {sum(map(int, re.findall(r'red: ([0-9]+)', text)))}"


async def answer(tmp_path, generator, *, budget: Budget | None = None, lines=None) -> tuple[Answer, Trace]:
    log = lines or [f"apple {n} is {'red' if n % 3 == 0 else 'green'}" for n in range(_NUM_LINES)]
    (tmp_path / "apples.log").write_text("\n".join(log))
    snapshot, trace = Snapshot(tmp_path, "", changed={}), Trace()
    tree = index(Snapshot(tmp_path, ""), documents=["apples.log"])
    purse = Purse.open(tmp_path.with_suffix(".purse"), budget or Budget(num_calls=500), time.time() + 600)
    found = await fold(
        Query(text="How many apples are red?"),
        list(units(tree, snapshot)),
        generator=generator,
        purse=purse,
        trace=trace,
        settings=FoldSettings(note_tokens=32),
    )
    return found, trace


def small(reply=counting) -> ScriptedGenerator:
    return ScriptedGenerator(reply, max_model_tokens=1100)


async def test_an_aggregate_over_all_parts_is_exact(tmp_path):
    found, _ = await answer(tmp_path, small())

    assert (found.text, found.ending, found.tier) == (f"red: {_NUM_LINES // 3}", Ending.COMPLETE, "fold")
    assert not found.warnings


async def test_no_fold_takes_more_calls_than_were_announced(tmp_path):
    generator = small()

    found, trace = await answer(tmp_path, generator)

    announced = int(
        re.search(r"at most (\d+) calls", next(e.title for e in trace.events if e.kind == "plan"))[1]
    )
    assert len(generator.calls) == found.spend.num_calls <= announced


async def test_no_prompt_exceeds_the_window(tmp_path):
    generator = small()

    await answer(tmp_path, generator)

    for [prompt], sampling in generator.calls:
        assert (await generator.count_tokens([prompt]))[0] + sampling.max_tokens <= 1100


async def test_more_than_the_budget_is_refused_before_anything_is_asked(tmp_path):
    generator = small()

    with pytest.raises(BudgetSpentError, match="takes up to"):
        await answer(tmp_path, generator, budget=Budget(num_calls=5))

    assert not generator.calls


async def test_parts_that_are_lost_are_told_and_the_rest_is_answered(tmp_path):
    calls = iter(range(10_000))

    def now_and_then(prompt, sampling, number):
        if next(calls) == 2:
            raise GeneratorError("the engine hiccuped")
        return counting(prompt, sampling, number)

    found, trace = await answer(tmp_path, small(now_and_then))

    assert re.fullmatch(r"1 part of \d+ could not be read", found.warnings[0])
    assert 0 < int(found.text.removeprefix("red: ")) < _NUM_LINES // 3
    assert any("hiccuped" in event.title for event in trace.events if event.kind == "error")


async def test_what_says_nothing_is_answered_with_nothing(tmp_path):
    found, _ = await answer(tmp_path, small(), lines=[f"pear {n}" for n in range(500)])

    assert (found.text, found.ending) == ("", Ending.NOTHING_READ)


@pytest.mark.parametrize(
    ("num_parts", "fan_in", "num"), [(1, 4, 2), (4, 4, 5), (5, 4, 8), (100, 4, 100 + 25 + 7 + 2 + 1)]
)
def test_the_number_of_calls_is_a_formula(num_parts, fan_in, num):
    assert num_calls_at_most(num_parts, fan_in) == num
