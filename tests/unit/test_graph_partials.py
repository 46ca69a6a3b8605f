"""Partial repairs are laid together, and later drafts go on from them: several functions, several files."""

from __future__ import annotations

import pytest

from pipeline.change import apply_change, change_between
from pipeline.config import Rung
from pipeline.core import VerdictKind
from pipeline.graph.partials import Partial, combinations, next_footing, ranked
from pipeline.graph.run import run_task
from pipeline.runs import RunFolder
from pipeline.testing import RecordingSandbox, ScriptedGenerator
from tests.unit.planner import (
    FILES,
    MODULE,
    RIGHT,
    SOURCE,
    TEST,
    WRONG,
    Edges,
    git_apply,
    make_repository,
    make_task,
    one_rung,
    played,
    settings_with,
)

BASE = {"m.py": b"".join(b"line %d\n" % i for i in range(20))}


def partial(name: str, fixed: str, *lines: int) -> Partial:
    """Return a partial candidate that repairs tests, one letter each, by changing these lines."""
    data = BASE["m.py"]
    for line in lines:
        data = data.replace(b"line %d\n" % line, b"%s %d\n" % (name.encode(), line))
    return Partial(candidate_id=name, change=change_between(BASE, {"m.py": data}), fixed=frozenset(fixed))


def names(found) -> list[str]:
    return ["".join(combination.parents) for combination in found]


def test_those_that_repair_different_tests_are_combined_most_first():
    a, b, c = partial("a", "xy", 1), partial("b", "z", 3), partial("c", "xw", 5)
    found = combinations([a, b, c], max_num=5)
    assert names(found) == ["acb"]  # c and b add as much; c alone repairs more
    assert found[0].fixed == frozenset("xyzw")
    assert apply_change(found[0].change, BASE.__getitem__)["m.py"].count(b"line") == 17


def test_what_adds_nothing_or_wants_the_same_lines_is_left_out():
    assert combinations([partial("a", "xy", 1), partial("b", "x", 3)], max_num=5) == []
    assert combinations([partial("a", "x", 1), partial("b", "y", 1)], max_num=5) == []
    found = combinations([partial("a", "xy", 1), partial("b", "z", 1), partial("c", "z", 4)], max_num=5)
    assert names(found) == ["ac"]


def test_the_number_of_combinations_is_bounded_and_their_order_fixed():
    many = [partial(chr(97 + i), chr(97 + i), 1 + i % 3) for i in range(12)]
    assert len(combinations(many, max_num=2)) == 2
    assert combinations(many, max_num=9) == combinations(many, max_num=9)


def test_the_smallest_of_those_that_repair_most_comes_first():
    order = ranked([partial("a", "x", 1), partial("b", "xy", 1, 2), partial("c", "yz", 3)])
    assert [p.candidate_id for p in order] == ["c", "b", "a"]


def test_every_other_round_starts_from_the_base_again():
    best = partial("a", "xy", 1)
    others = [best, partial("b", "x", 2)]
    assert next_footing([], last="") is None
    assert next_footing(others, last="") == best
    assert next_footing(others, last="a") is None
    assert next_footing(others, last="b") == best  # a better one was found meanwhile


# ---------------------------------------------------------------- in the graph

BROKEN = SOURCE.replace("x * 2", "x * 3")
OTHER = "calc/more.py"
ADD, DOUBLE = f"{TEST}::test_add", f"{TEST}::test_double"
RIGHT_DOUBLE = "\n    return x * 2\n"


def outcomes(files, _request):
    add, double = b"return a + b" in files[MODULE], b"return x * 2" in files.get(OTHER, files[MODULE])
    return {
        ADD: "passed" if add else "AssertionError: assert add(1, 2) == 3",
        DOUBLE: "passed" if double else "AssertionError: assert double(4) == 8",
        f"{TEST}::test_add_zero": "passed",
    }


@pytest.fixture
def run(tmp_path):
    async def call(reply, ladder, *, files=None, sandbox: RecordingSandbox | None = None, name: str = "run"):
        repo = make_repository(tmp_path / f"repo-{name}", {**FILES, MODULE: BROKEN, **(files or {})})
        edges = Edges(ScriptedGenerator(reply=reply), sandbox=sandbox or played(outcomes))
        edges.settings = settings_with(ladder)
        record = await run_task(
            make_task(repo), RunFolder(tmp_path / "runs" / name), edges.dependencies(tmp_path)
        )
        return record, repo, edges

    return call


def each_repairs_one(prompt, _sampling, _number) -> str:
    return RIGHT if "def add" in prompt.prefill else RIGHT_DOUBLE


async def test_two_partial_repairs_of_one_round_make_the_patch(run):
    record, repo, _ = await run(each_repairs_one, one_rung(num_candidates=2, num_suspects=2))
    first, second, both = record.rounds[0].candidates
    assert {first.verdict.kind, second.verdict.kind} == {VerdictKind.PARTIAL}
    assert both.candidate.parents == ("r1c00", "r1c01")
    assert (both.prompt_number, both.completion.num_completion_tokens) == (None, 0)
    assert (record.status, record.patch.candidate_id) == ("solved", "r1m00")
    git_apply(repo, record.patch.diff)
    assert (repo / MODULE).read_text() == BROKEN.replace("a - b", "a + b").replace("x * 3", "x * 2")


async def test_a_patch_may_span_files(run):
    moved = {
        MODULE: BROKEN[: BROKEN.index("def double")],
        OTHER: BROKEN[BROKEN.index("def double") :],
        TEST: FILES[TEST].replace("import add, double", "import add\nfrom calc.more import double"),
    }
    record, repo, _ = await run(each_repairs_one, one_rung(num_candidates=2, num_suspects=2), files=moved)
    assert record.patch.paths == (MODULE, OTHER)
    git_apply(repo, record.patch.diff)
    assert "a + b" in (repo / MODULE).read_text()
    assert "x * 2" in (repo / OTHER).read_text()


async def test_a_later_round_goes_on_from_a_partial_repair(run):
    def reply(prompt, _sampling, _number) -> str:
        if "def add" in prompt.prefill:
            return RIGHT
        sees_the_repair = "return a + b" in "".join(m.content for m in prompt.messages)
        return RIGHT_DOUBLE if sees_the_repair else "\n    return x\n"

    rung = Rung(num_candidates=1, num_suspects=1)
    wide = Rung(num_candidates=2, num_suspects=2, context="wide")
    record, _, edges = await run(reply, (rung, wide, wide))
    assert record.rounds[0].candidates[0].verdict.kind is VerdictKind.PARTIAL
    second = record.rounds[1]
    assert second.footing == "r1c00"
    assert second.prompts[0].suspect.qualname == "double"  # the test of add passes there
    assert all("test_add(" not in "".join(m.content for m in p.prompt.messages) for p in second.prompts)
    winner = next(e for e in second.candidates if e.candidate.candidate_id == record.patch.candidate_id)
    assert winner.candidate.parents == ("r1c00",)
    assert record.patch.num_changed_lines == 4
    assert any("going on from r1c00" in event.message for event in edges.events)


async def test_a_footing_that_brings_nothing_is_left_for_a_round(run):
    ladder = tuple(Rung(num_candidates=2, num_suspects=1, temperature=0.5 + i / 10) for i in range(4))

    def reply(prompt, sampling, number) -> str:
        return RIGHT if "def add" in prompt.prefill else f"\n    return x + {sampling.seed + number}\n"

    record, _, _ = await run(reply, ladder)
    assert record.status == "unsolved"
    assert [round_.footing for round_ in record.rounds] == ["", "r1c00", "", "r1c00"]
    assert "fixed 1 of 2" in record.reason


async def test_what_repairs_one_test_and_breaks_another_is_no_footing(run):
    def breaking(files, request):
        found = outcomes(files, request)
        if found[ADD] == "passed":
            found[f"{TEST}::test_add_zero"] = "AssertionError: no"
        return found

    rung = Rung(num_candidates=1, num_suspects=1)
    record, _, _ = await run(each_repairs_one, (rung, rung), sandbox=played(breaking))
    assert record.rounds[0].candidates[0].verdict.kind is VerdictKind.REGRESSED
    assert record.rounds[1].footing == ""


async def test_a_run_that_is_solved_at_once_pays_nothing_for_it(run):
    record, _, _ = await run([RIGHT, WRONG], one_rung(), files={MODULE: SOURCE})
    assert (record.status, record.num_sandbox_runs) == ("solved", 3 + 2)


async def test_the_report_and_the_listing_tell_what_a_candidate_is_made_of(run):
    from pipeline.report import render

    record, _, _ = await run(each_repairs_one, one_rung(num_candidates=2, num_suspects=2))
    page = render(record)
    assert "Made of:" in page
    assert "r1c00, r1c01" in page


# ---------------------------------------------------------------- answers over several files

SPREAD = {
    MODULE: BROKEN[: BROKEN.index("def double")],
    OTHER: BROKEN[BROKEN.index("def double") :],
    TEST: FILES[TEST].replace("import add, double", "import add\nfrom calc.more import double"),
}
BLOCKS = f"""    return a - b
=======
    return a + b
>>>>>>> REPLACE
{OTHER}
<<<<<<< SEARCH
    return x * 3
=======
    return x * 2
>>>>>>> REPLACE
"""
OF_A_TEST = BLOCKS.replace(OTHER, TEST).replace("return x * 3", "assert double(4) == 8")
DIFF = f""" -1,2 +1,2 @@
 def add(a, b):
     \"\"\"Add.\"\"\"
-    return a - b
+    return a + b
--- a/{OTHER}
+++ b/{OTHER}
@@ ... @@
-    return x * 3
+    return x * 2
"""


@pytest.mark.parametrize(("strategy", "answer"), [("blocks", BLOCKS), ("diff", DIFF)])
async def test_one_answer_may_edit_several_files(run, strategy, answer):
    record, repo, _ = await run([answer], one_rung(strategy=strategy, num_candidates=1), files=SPREAD)
    assert [entry.candidate.refused for entry in record.rounds[0].candidates] == [""]
    assert (record.status, record.patch.paths) == ("solved", (MODULE, OTHER))
    git_apply(repo, record.patch.diff)
    assert "x * 2" in (repo / OTHER).read_text()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (OF_A_TEST, "belongs to the tests"),
        (BLOCKS.replace(OTHER, "calc/mor.py"), "there is no file calc/mor.py; the nearest is calc/more.py"),
        (BLOCKS.replace("x * 3", "y ** 4 - 1"), "the nearest lines are"),
    ],
)
async def test_an_edit_of_tests_or_of_what_is_not_there_costs_no_run(run, answer, why):
    record, _, _ = await run([answer], one_rung(strategy="blocks", num_candidates=1), files=SPREAD)
    assert why in record.rounds[0].candidates[0].candidate.refused
    assert record.num_sandbox_runs == 3


async def test_a_quote_that_is_not_there_is_told_to_the_next_draft(run):
    rung = Rung(strategy="blocks", num_candidates=1)
    missing = BLOCKS.replace("x * 3", "y ** 4 - 1")

    def reply(prompt, _sampling, _number) -> str:
        text = "".join(message.content for message in prompt.messages)
        return BLOCKS if "the nearest lines are" in text else missing

    record, _, _ = await run(reply, (rung, rung.model_copy(update={"feedback": True})), files=SPREAD)
    assert record.status == "solved"
    assert "y ** 4 - 1" in record.rounds[1].prompts[0].prompt.messages[-1].content


async def test_a_method_is_shown_as_it_stands_where_it_is_to_be_quoted(run):
    record, _, _ = await run(["nothing"], one_rung(strategy="diff", num_candidates=1), files=SPREAD)
    prompt = record.rounds[0].prompts[0].prompt
    assert prompt.prefill == f"```diff\n--- a/{MODULE}\n+++ b/{MODULE}\n@@"
    assert "unified diff" in prompt.messages[-1].content
