"""What the lexical ranking promises: words, and pointers of a query, find the unit that is meant."""

from __future__ import annotations

import pytest

from pipeline.context.lexical import LexicalIndex
from pipeline.context.tree.index import index
from pipeline.context.units import Unit, units
from pipeline.snapshot import Snapshot

_SHOP = """\
TAX = 0.2

class Basket:
    \"\"\"What is bought.\"\"\"
    rate = TAX

    def total(self):
        def taxed(price):
            return price * (1 + self.rate)
        return sum(map(taxed, self.prices))

    def is_empty(self):
        if self.closed:
            raise ValueError("the basket is closed already")
        return not self.prices
"""
_GO = """\
package shop

func Ship(box Box) error {
\treturn send(box)
}

func Weigh(box Box) int {
\treturn 1
}
"""


@pytest.fixture
def found(tmp_path) -> list[Unit]:
    files = {
        "shop/basket.py": _SHOP,
        "shop/mail.py": "def send(letter):\n    return letter\n",
        "shop/old.py": "def send(letter):\n    return None\n",
        "go/ship.go": _GO,
        "tests/test_basket.py": "def test_total():\n    assert total\n",
        "notes.txt": "how to ship a basket\n",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    snapshot = Snapshot(tmp_path, "")
    return list(units(index(snapshot), snapshot, with_tests=False))


def places(index: LexicalIndex, query: str, **kwargs: bool) -> list[str]:
    return [one.unit.place for one in index.ranked(query, **kwargs)]


def test_units_are_whole_functions_and_what_lies_around_them(found):
    text = "".join(unit.text for unit in found if unit.node.path == "shop/basket.py")
    functions = {unit.place for unit in found if unit.node.kind == "function"}

    assert text == _SHOP
    assert {"shop/basket.py::Basket.total", "go/ship.go::Ship", "shop/mail.py::send"} <= functions
    assert "shop/basket.py::Basket.total.taxed" not in functions  # it belongs to `total`


def test_no_fault_is_looked_for_in_tests(found):
    assert not [unit for unit in found if unit.node.path.startswith("tests/")]


def test_words_of_identifiers_find_a_function(found):
    assert places(LexicalIndex(found), "is my basket empty?")[0] == "shop/basket.py::Basket.is_empty"


def test_a_frame_of_a_traceback_outweighs_words(found):
    query = "the basket is empty\nshop/mail.py:2: in send\nE   TypeError: ship"

    assert places(LexicalIndex(found), query)[0] == "shop/mail.py::send"


def test_the_deepest_frame_comes_first(found):
    query = (
        'File "/workspace/shop/basket.py", line 10, in total\nFile "/workspace/shop/mail.py", line 2, in send'
    )

    assert places(LexicalIndex(found), query)[:2] == ["shop/mail.py::send", "shop/basket.py::Basket.total"]


def test_each_traceback_has_a_deepest_frame(found):
    query = "shop/mail.py:2: in send\ntests/test_basket.py:2: in test\nshop/basket.py:10: in total\n"
    scores = {one.unit.place: one.score for one in LexicalIndex(found).ranked(query)}
    without = {one.unit.place: one.score for one in LexicalIndex(found).ranked(query, with_pointers=False)}

    assert scores["shop/mail.py::send"] - without["shop/mail.py::send"] == pytest.approx(1.0)
    assert scores["shop/basket.py::Basket.total"] - without["shop/basket.py::Basket.total"] == pytest.approx(
        1.0
    )


def test_frames_of_other_languages_are_read(found):
    assert places(LexicalIndex(found), "panic at go/ship.go:8 +0x1d")[0] == "go/ship.go::Weigh"


def test_a_name_in_back_ticks_is_found(found):
    assert places(LexicalIndex(found), "what does `Weigh` do with the basket?")[0] == "go/ship.go::Weigh"


def test_namesakes_share_what_a_name_counts(found):
    scores = {one.unit.place: one.score for one in LexicalIndex(found).ranked("`send`")}
    alone = {one.unit.place: one.score for one in LexicalIndex(found).ranked("`Weigh`")}

    assert scores["shop/mail.py::send"] < alone["go/ship.go::Weigh"]


def test_without_pointers_only_words_count(found):
    query = "the basket is empty\nshop/mail.py:2: in send"

    assert places(LexicalIndex(found), query, with_pointers=False)[0] == "shop/basket.py::Basket.is_empty"


@pytest.mark.parametrize("query", ["", "   ", "zzzz qqqq", "\0\ud800"])
def test_a_query_that_says_nothing_ranks_nothing(found, query):
    assert LexicalIndex(found).ranked(query) == []


def test_a_repository_without_code_ranks_nothing():
    assert LexicalIndex([]).ranked("anything") == []
