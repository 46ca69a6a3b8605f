"""What failing tests say and what a reading found become one ranking of functions that can be repaired."""

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


class Box:
    @property
    def size(self):
        return 1

    @size.setter
    def size(self, value):
        raise ValueError(value)


def sent(items):
    raise NotImplementedError
"""
FAILURE = TestCase(test_id="test_shop.py::test_pay", status=TestStatus.FAILED, message="assert 2 == 1")


@pytest.fixture
def shop(tmp_path) -> Snapshot:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "test_shop.py").write_text(TEST)
    return Snapshot(tmp_path, "")


def ranked(shop: Snapshot, *places: str, num_suspects: int = 10, **evidence):
    evidence = Evidence(failures=(FAILURE,), **evidence)
    found = dict.fromkeys(places, ("the model says +1.00",))
    return localise(shop, evidence, num_suspects=num_suspects, places=found)


def test_what_a_reading_found_is_lifted_and_says_so(shop):
    alone, lifted = ranked(shop), ranked(shop, "shop.py::tax", "shop.py::total")

    assert [suspect.qualname for suspect in alone][:2] == ["pay", "total"]
    assert [suspect.qualname for suspect in lifted][:2] == ["total", "tax"]
    assert "called by what a test calls" in lifted[0].evidence
    assert "reading: the model says +1.00" in lifted[0].evidence
    assert "reading: the model says +1.00" not in lifted[2].evidence


def test_the_first_of_both_has_a_score_of_one(shop):
    assert ranked(shop, "shop.py::pay")[0].score == 1.0


def test_what_cannot_be_repaired_is_left_out_whatever_a_reading_says(shop):
    places = ["test_shop.py::test_pay", "shop.py::gone", "data.json:1-9", "shop.py::Box.size"]
    found = ranked(shop, *places)

    assert {suspect.path for suspect in found} == {"shop.py"}
    assert "gone" not in {suspect.qualname for suspect in found}
    assert found[0].evidence[-1].startswith("reading: ")  # first of the reading, with those left out


def test_a_property_and_its_setter_are_both_lifted(shop):
    first, second, *_ = ranked(shop, "shop.py::Box.size")

    assert {first.start_line, second.start_line} == {14, 18}


def test_what_is_not_written_yet_stays_first(shop):
    [number] = [n for n, line in enumerate(SHOP.split("\n"), 1) if "NotImplementedError" in line]
    first, *_ = ranked(shop, "shop.py::tax", covered={"shop.py": frozenset({number})})

    assert (first.qualname, first.is_unwritten) == ("sent", True)


def test_no_more_suspects_come_out_than_are_asked_for(shop):
    assert len(ranked(shop, "shop.py::tax", "shop.py::Box.size", num_suspects=2)) == 2
