"""The benchmarks of reading: needles share no word with their questions; ranks and answers count right."""

from __future__ import annotations

import ast

import pytest

from pipeline.bench.recipe import SdistSource
from pipeline.context.lexical import LexicalIndex
from pipeline.context.tree.index import index
from pipeline.context.units import units
from pipeline.core import Step
from pipeline.snapshot import Snapshot
from pipeline.testing import ScriptedGenerator
from tests.benchmarks.context.aggregates import AGGREGATES, is_right
from tests.benchmarks.context.cases import Case, load_needles
from tests.benchmarks.context.descent import VARIANTS, descended
from tests.benchmarks.context.recall import WAYS, Bed, row_of

_SOURCE = SdistSource(project="shop", version="1", filename="shop-1.tar.gz", sha256="0" * 64)


@pytest.fixture
def bed(tmp_path) -> Bed:
    files = {"a.py": "def weigh(box):\n    return box.grams\n", "b.py": "def ship(box):\n    return box\n"}
    snapshot = Snapshot(tmp_path, "", changed={path: text.encode() for path, text in files.items()})
    tree = index(snapshot)
    found = tuple(units(tree, snapshot))
    case = Case(
        case_id="c",
        kind="message",
        split="dev",
        source=_SOURCE,
        query="grams of a box",
        gold=("a.py::weigh",),
    )
    return Bed(case, snapshot, tree, found, LexicalIndex(found))


def test_no_needle_can_be_found_by_a_word_of_its_question():
    needles = load_needles()  # which checks each

    assert [needle.split for needle in needles] == ["dev"] * 12 + ["held_out"] * 12
    assert len({needle.name for needle in needles}) == 24


@pytest.mark.parametrize("way", sorted(WAYS))
def test_each_way_ranks_units_of_the_tree(bed, way):
    places = WAYS[way](bed)

    assert set(places) <= {unit.place for unit in bed.units}
    assert way == "path only" or places[0] == "a.py::weigh"


def test_a_case_is_found_where_the_last_of_its_functions_is(bed):
    case = bed.case.model_copy(update={"gold": ("a.py::weigh", "b.py::ship")})
    both = Bed(case, bed.snapshot, bed.tree, bed.units, bed.words)

    assert row_of(bed, "way", ["b.py::ship", "a.py::weigh"], 0.0).function_rank == 2
    assert row_of(both, "way", ["a.py::weigh", "a.py:9-9", "b.py::ship"], 0.0).function_rank == 2
    assert row_of(both, "way", ["a.py::weigh", "a.py:9-9", "b.py::ship"], 0.0).file_rank == 2
    assert row_of(both, "way", ["a.py::weigh"], 0.0).function_rank is None


async def test_flat_scoring_judges_every_unit_once_and_nothing_else(bed):
    generator = ScriptedGenerator("Yes", steps=lambda _: (Step("Yes", -0.1, (("No", -2.0),)),))

    found = await descended(bed, VARIANTS["flat"], generator)

    assert found.spend.num_calls == len(bed.units) == 2
    assert found.coverage == 1.0


_MODULE = """
class Box:
    def weigh(self):
        def inner():
            yield 1
        raise ValueError("no")

def ship(box):
    yield box
"""


def test_the_truth_of_an_aggregate_is_counted_in_the_syntax_tree():
    truths = {
        one.name: one.truth([ast.parse(_MODULE), ast.parse("def late(): raise ValueError")])
        for one in AGGREGATES
    }

    assert truths == {
        "functions": {"4"},
        "raises": {"2"},
        "longest": {"weigh"},
        "generators": {"inner", "ship"},
        "classes": {"Box"},
    }


def test_an_answer_is_right_that_has_all_words_of_the_truth_and_no_other():
    assert is_right("`ship`, inner.", {"inner", "ship"})
    assert not is_right("ship", {"inner", "ship"})
    assert not is_right("There are 4", {"4"})
    assert is_right("None.", set())
    assert not is_right("", set())
