"""A model's judgements of functions join what failing tests say, and never what cannot be repaired."""

from __future__ import annotations

import pytest

from pipeline.context.failures import Evidence
from pipeline.context.localise import localise
from pipeline.core import TestCase, TestStatus
from pipeline.snapshot import Snapshot

TEST = "from shop import pay\n\n\ndef test_pay():\n    assert pay(1) == 1\n"
SHOP = """\
def pay(items):
    return total(items)


def total(items):
    return tax(items)


def tax(items):
    return [items, "x" * 3]


def alpha(items):
    return "y"


def beta(items):
    return "y"


def sent(items):
    beta(items)
    raise NotImplementedError
"""
FAILURE = TestCase(test_id="test_shop.py::test_pay", status=TestStatus.FAILED, message="assert 2 == 1")


@pytest.fixture
def shop(tmp_path) -> Snapshot:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "test_shop.py").write_text(TEST)
    return Snapshot(tmp_path, "")


def names(shop: Snapshot, judgements: dict[str, float], **evidence) -> list[str]:
    found = localise(shop, Evidence(failures=(FAILURE,), **evidence), num_suspects=10, judgements=judgements)
    return [suspect.qualname for suspect in found]


def test_a_function_is_lifted_by_as_much_as_the_model_says(shop):
    assert names(shop, {})[:2] == ["pay", "total"]
    assert names(shop, {"shop.py::tax": 0.1})[:2] == ["pay", "total"]
    assert names(shop, {"shop.py::tax": 9.0})[:2] == ["tax", "pay"]


def test_what_no_failing_test_runs_stays_behind_whatever_the_model_says(shop):
    found = names(shop, {"shop.py::alpha": 0.9}, covered={"shop.py": frozenset({2, 6, 10})})

    assert found[:3] == ["pay", "total", "tax"]


def test_a_place_that_is_no_function_of_the_tree_is_left_out(shop):
    assert names(shop, {"shop.py::gone": 9.0, "test_shop.py::test_pay": 9.0}) == names(shop, {})


def test_of_equals_what_a_higher_ranked_function_calls_comes_first(shop):
    judged = {"shop.py::sent": 9.0, "shop.py::alpha": 0.5, "shop.py::beta": 0.5}

    assert [name for name in names(shop, judged) if name in ("alpha", "beta")] == ["beta", "alpha"]


def test_what_is_not_written_yet_stays_first(shop):
    [number] = [n for n, line in enumerate(SHOP.split("\n"), 1) if "NotImplementedError" in line]

    assert names(shop, {"shop.py::tax": 0.9}, covered={"shop.py": frozenset({number})})[0] == "sent"
