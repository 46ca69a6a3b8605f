"""Where scores are equal, what a higher ranked function calls comes first; nothing else moves."""

from __future__ import annotations

import pytest

from pipeline.context.call_graph import CALLS, IMPORTS, NOTHING, CallGraph, Source, tie_broken

FILES = {
    "shop/cart.py": b"from shop.price import total\nfrom . import tax\n",
    "shop/price.py": b"",
    "shop/tax/__init__.py": b"",
    "shop/mail.py": b"",
    "shop/cart.js": b"",
}
SOURCES = {
    "pay": Source("shop/cart.py", "pay", "def pay(self):\n    return total(self.items) + show()\n"),
    "show": Source("shop/cart.py", "show", "def show():\n    pass\n"),
    "total": Source("shop/price.py", "total", "def total(items):\n    pass\n"),
    "round": Source("shop/price.py", "round", "def round(x):\n    pass\n"),
    "rate": Source("shop/tax/__init__.py", "rate", "def rate():\n    pass\n"),
    "mailed": Source("shop/mail.py", "show", "def show():\n    pass\n"),
    "js": Source("shop/cart.js", "total", "function total() {}\n"),
}


@pytest.fixture
def graph() -> CallGraph:
    return CallGraph(SOURCES.__getitem__, FILES.__getitem__)


@pytest.mark.parametrize(
    ("other", "nearness"),
    [
        ("show", CALLS),
        ("total", CALLS),
        ("round", IMPORTS),
        ("rate", IMPORTS),  # a package, by its folder
        ("mailed", NOTHING),  # a namesake in a file that nobody imports
        ("js", NOTHING),
    ],
)
def test_a_call_is_a_name_in_the_same_or_an_imported_file(graph, other, nearness):
    assert graph.nearness("pay", other) == nearness


def test_of_equals_the_one_that_a_higher_ranked_one_calls_comes_first_then_what_its_file_imports(graph):
    order = ["pay", "mailed", "round", "total"]
    scores = {"pay": 2.0, "mailed": 1.0, "round": 1.0, "total": 1.0}

    assert tie_broken(order, scores, graph.nearness) == ["pay", "total", "round", "mailed"]


def test_what_has_a_score_of_its_own_stays_where_it_is(graph):
    order = ["pay", "mailed", "total"]

    assert tie_broken(order, {"pay": 2.0, "mailed": 1.1, "total": 1.0}, graph.nearness) == order


def test_equals_that_nothing_is_near_to_keep_their_order(graph):
    order = ["mailed", "show", "pay"]

    assert tie_broken(order, dict.fromkeys(order, 1.0), graph.nearness) == order
