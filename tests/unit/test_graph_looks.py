"""A candidate is judged in as few and as cheap runs of the tests as leave nothing open."""

from __future__ import annotations

import pytest

from pipeline.core import Outcome, TestCase, TestReport, TestStatus
from pipeline.graph.looks import is_settled, looks
from pipeline.runs import BaselineRecord
from pipeline.verdict import judge

QUICK, OTHER, SLOW = (
    "tests/test_a.py::test_quick",
    "tests/test_a.py::test_other",
    "tests/test_a.py::test_slow",
)


def baseline(*, slow: float = 60.0, wall: float = 90.0, num_elsewhere: int = 20, num_near: int = 5):
    seconds = {QUICK: 0.1, OTHER: 0.2, SLOW: slow}
    return BaselineRecord(
        fail_to_pass=list(seconds),
        pass_to_pass=[
            *(f"tests/test_a.py::test_{i}" for i in range(num_near)),
            *(f"tests/test_b.py::test_{i}" for i in range(num_elsewhere)),
        ],
        failures=[case(test_id, message=f"{test_id} is wrong", seconds=s) for test_id, s in seconds.items()],
        output="",
        wall_seconds=wall,
    )


def case(test_id: str, status=TestStatus.FAILED, *, message: str = "", seconds: float = 0.0) -> TestCase:
    return TestCase(test_id=test_id, status=status, message=message, seconds=seconds)


def report(*cases: TestCase, outcome: Outcome = Outcome.EXITED) -> TestReport:
    bad = any(c.status is TestStatus.FAILED for c in cases)
    return TestReport(outcome=outcome, exit_code=int(bad), cases=cases, output="", wall_seconds=1.0)


def names(record: BaselineRecord, *, can_select: bool = True) -> list[str]:
    return [look.name for look in looks(record, can_select=can_select)]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (baseline(), ["quick", "fast", "files", "full"]),
        (baseline(slow=1.0, wall=2.0), ["fast", "full"]),  # a run costs as much as all of these
        (baseline(slow=1.0), ["fast", "files", "full"]),
        (baseline(num_elsewhere=4), ["quick", "fast", "full"]),  # nearly all is in the targets' file
        (baseline(num_near=0), ["quick", "fast", "full"]),  # nothing to break there
        (baseline(num_elsewhere=0, num_near=0), ["full"]),  # the targets are all there is
    ],
)
def test_only_what_takes_seconds_is_split(record, expected):
    assert names(record) == expected


def test_a_command_that_cannot_select_is_run_once():
    assert names(baseline(), can_select=False) == ["full"]


def test_the_quick_look_has_the_quick_tests_and_the_files_look_what_they_hold():
    quick, fast, files, full = looks(baseline(), can_select=True)
    assert quick.test_ids == (QUICK, OTHER)
    assert fast.test_ids == (QUICK, OTHER, SLOW)
    assert (files.test_ids, len(files.pass_to_pass)) == (("tests/test_a.py",), 5)
    assert (full.test_ids, len(full.pass_to_pass)) == (None, 25)


def settled(name: str, seen: TestReport) -> bool:
    record = baseline()
    look = next(look for look in looks(record, can_select=True) if look.name == name)
    verdict = judge(seen, fail_to_pass=record.fail_to_pass, pass_to_pass=look.pass_to_pass)
    return is_settled(look, verdict, seen, record)


AS_BEFORE = [case(QUICK, message=f"{QUICK} is wrong"), case(OTHER, message=f"{OTHER} is wrong")]
PASSED = TestStatus.PASSED


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (report(*AS_BEFORE), True),  # it fails as before in every word
        (report(AS_BEFORE[0], case(OTHER, message="wrong in another way")), False),
        (report(AS_BEFORE[0], case(OTHER, PASSED)), False),
        (report(AS_BEFORE[0]), False),  # one was not run
        (report(outcome=Outcome.TIMED_OUT), True),
        (report(case("tests/test_a.py", TestStatus.ERROR, message="SyntaxError")), False),
    ],
)
def test_the_slow_tests_are_spared_where_the_quick_ones_show_nothing_new(seen, expected):
    assert settled("quick", seen) is expected


KEPT = [case(f"tests/test_a.py::test_{i}", PASSED) for i in range(5)]
FIXED = [case(test_id, PASSED) for test_id in (QUICK, OTHER, SLOW)]


@pytest.mark.parametrize(
    ("name", "seen", "expected"),
    [
        ("fast", report(*AS_BEFORE, case(SLOW)), True),
        ("fast", report(AS_BEFORE[0], *FIXED[1:]), False),  # a partial repair is worth the rest
        ("fast", report(*FIXED), False),
        ("files", report(*FIXED, *KEPT), False),
        ("files", report(*FIXED, *KEPT[1:], case("tests/test_a.py::test_0")), True),  # it breaks one
        ("full", report(*FIXED, *KEPT), True),
    ],
)
def test_a_candidate_goes_on_as_long_as_it_repairs_and_breaks_nothing(name, seen, expected):
    assert settled(name, seen) is expected
