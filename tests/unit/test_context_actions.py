"""What tier M promises: only what is there can be named, the state stays small, and mistakes end it."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context.actions.action import ActionError, grammar, parsed
from pipeline.context.actions.localise import ActionSettings, localise_by_actions
from pipeline.context.lexical import LexicalIndex
from pipeline.context.reading import Ending, Findings, Query
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import Purse
from pipeline.context.tree.index import index
from pipeline.context.units import units
from pipeline.core import Budget
from pipeline.snapshot import Snapshot
from pipeline.testing import ScriptedGenerator


def shelf(root, num_files: int = 40) -> Snapshot:
    for number in range(num_files):
        path = root / f"part{number % 4}" / f"page{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"def f{number}(x):\n    return x + {number}\n", "utf-8")
    (root / "part3" / "mirror.py").write_text("def zq(kk):\n    return kk[::-1]\n", "utf-8")
    return Snapshot(root, "")


async def search(
    tmp_path, reply, query="what reads backwards?", **options
) -> tuple[Findings, ScriptedGenerator, Trace]:
    snapshot = shelf(tmp_path / "shelf")
    tree, trace, generator = index(snapshot), Trace(), ScriptedGenerator(reply)
    budget = Budget(num_calls=options.pop("num_calls", 20))
    found = await localise_by_actions(
        Query(text=query),
        tree,
        LexicalIndex(units(tree, snapshot)),
        generator=generator,
        purse=Purse.open(tmp_path / "purse", budget, time.time() + 600),
        trace=trace,
        settings=ActionSettings(**options),
    )
    return found, generator, trace


def id_of(name: str, prompt) -> str:
    return re.search(rf"^(n\d+): .*{name}", prompt.messages[-1].content, re.MULTILINE)[1]


async def test_a_model_that_goes_down_the_tree_finds_its_place(tmp_path):
    steps = iter(["EXPAND {part3}", "EXPAND {mirror}", "READ {zq}", "DONE {zq}"])

    def reply(prompt, _, __):
        step = next(steps)
        name = re.search(r"\{(\w+)\}", step)[1]
        return step.replace(f"{{{name}}}", id_of(name, prompt))

    found, generator, trace = await search(tmp_path, reply)

    assert (found.spans[0].path, found.spans[0].qualname) == ("part3/mirror.py", "zq")
    assert (found.ending, found.spend.num_calls) == (Ending.COMPLETE, 4)
    for line in re.findall(r"^n\d+: .*", generator.calls[0][0][0].messages[-1].content, re.MULTILINE):
        assert re.search(r" \(~\d+ tokens\) ?", line), "a model knows what reading it would cost"
    assert next(e.title for e in trace.events if e.kind == "decide") == "EXPAND part3"
    assert sum(event.num_prompt_tokens for event in trace.events) == found.spend.num_prompt_tokens > 0


async def test_a_word_that_is_searched_for_brings_its_places_in_sight(tmp_path):
    steps = iter([lambda _: "GREP kk", lambda prompt: f"DONE {id_of('zq', prompt)}"])

    found, _, _ = await search(tmp_path, lambda prompt, _, __: next(steps)(prompt))

    assert found.spans[0].qualname == "zq"


async def test_each_step_allows_what_is_in_sight_and_nothing_else(tmp_path):
    _, generator, _ = await search(tmp_path, ["GREP nowhere_at_all"], num_actions=2)

    for [prompt], sampling in generator.calls:
        in_sight = set(re.findall(r"^(n\d+): ", prompt.messages[-1].content, re.MULTILINE))
        assert set(re.findall(r'"(n\d+)"', sampling.grammar)) == in_sight


async def test_the_state_does_not_grow(tmp_path):
    _, generator, _ = await search(tmp_path, ["GREP return", "GREP def"], num_actions=8)

    sizes = [len(prompts[0].messages[-1].content) for prompts, _ in generator.calls]
    assert len(sizes) == 8
    assert max(sizes[2:]) <= max(sizes[:2]) + 50


async def test_a_text_that_is_no_action_is_told_once_and_then_the_words_hold(tmp_path):
    found, generator, trace = await search(tmp_path, ["I think that...", "EXPAND n999"], query="page7 f7")

    assert found.ending is Ending.GAVE_UP
    assert found.spans[0].qualname == "f7"
    assert "was no action: write one line" in generator.calls[1][0][0].messages[-1].content
    assert sum(event.kind == "error" for event in trace.events) == 2


async def test_calls_that_run_out_end_the_search_with_what_there_is(tmp_path):
    found, generator, _ = await search(tmp_path, ["GREP x"], query="f7", num_calls=3)

    assert (found.ending, len(generator.calls)) == (Ending.BUDGET_SPENT, 3)
    assert found.spans[0].qualname == "f7"


@pytest.mark.parametrize(
    "text",
    ["", "READ", "READ n2", "EXPAND n1 n1", "FINAL n1", "READ n1; rm -rf /", "GREP ../../etc", "DONE n1 n9"],
)
def test_what_is_no_action_is_refused(text):
    with pytest.raises(ActionError):
        parsed(text, folded=["n2"], readable=["n1"])


@given(folded=st.sets(st.integers(1, 50), max_size=5), readable=st.sets(st.integers(51, 99), max_size=5))
def test_the_grammar_is_one_that_the_engine_compiles(folded, readable):
    import xgrammar

    xgrammar.Grammar.from_ebnf(grammar([f"n{n}" for n in folded], [f"n{n}" for n in readable]))
