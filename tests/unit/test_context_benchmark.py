"""The localisation benchmark: needles share no word with their questions, and ranks are counted right."""

from __future__ import annotations

import pytest

from pipeline.bench.recipe import SdistSource
from pipeline.context.lexical import LexicalIndex
from pipeline.context.tree.index import index
from pipeline.context.units import units
from pipeline.snapshot import Snapshot
from tests.benchmarks.context.cases import Case, load_needles
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
