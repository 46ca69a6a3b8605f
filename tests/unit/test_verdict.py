"""Every way a run can end has its verdict, and the feedback says no more than the next draft needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.core import Outcome, Verdict, VerdictKind
from pipeline.testrun import parse_test_command, read_report
from pipeline.verdict import changed_tests, judge
from tests.unit.junit import pytest_result

A, B, C, D = (f"tests/test_a.py::test_{name}" for name in "abcd")
FILE = "tests/test_a.py"
NO = "AssertionError: assert 1 == 2"


def report_of(outcomes, **overrides):
    return read_report(pytest_result(outcomes, **overrides), parse_test_command("pytest"), [FILE])


def verdict(outcomes, *, target=(A, B), keep=(C, D), **overrides) -> Verdict:
    return judge(report_of(outcomes, **overrides), fail_to_pass=target, pass_to_pass=keep)


P, S = "passed", "skipped"


@pytest.mark.parametrize(
    ("outcomes", "kind"),
    [
        ({A: P, B: P, C: P, D: P}, VerdictKind.RESOLVED),
        ({A: P, B: P, C: P, D: S}, VerdictKind.REGRESSED),  # a test that is skipped now does not pass
        ({A: P, B: S, C: P, D: P}, VerdictKind.PARTIAL),
        ({A: P, B: NO, C: P, D: P}, VerdictKind.PARTIAL),
        ({A: P, C: P, D: P}, VerdictKind.PARTIAL),  # a target that did not run is not fixed
        ({A: NO, B: NO, C: P, D: P}, VerdictKind.UNCHANGED),
        ({A: P, B: P, C: NO, D: P}, VerdictKind.REGRESSED),
        ({A: P, B: P, C: P}, VerdictKind.REGRESSED),  # a test that disappeared is broken
        ({FILE: "SyntaxError: invalid syntax"}, VerdictKind.BROKEN),
    ],
)
def test_outcomes_decide_the_verdict(outcomes, kind):
    assert verdict(outcomes).kind is kind


def test_counts_are_of_targets_and_of_kept_tests():
    v = verdict({A: P, B: NO, C: NO, D: P})
    assert (v.num_fixed, v.num_target, v.num_broken, v.num_kept) == (1, 2, 1, 1)


@pytest.mark.parametrize("outcomes", [{A: P, C: P, D: P}, {A: P, B: P, C: P, D: P}])
def test_a_report_that_contradicts_the_exit_code_is_not_even_a_part(outcomes):
    assert verdict(outcomes, exit_code=1).kind is VerdictKind.BROKEN


@pytest.mark.parametrize(
    ("on_the_base", "kind"), [((), VerdictKind.BROKEN), (("_pytest.x", "b"), VerdictKind.RESOLVED)]
)
def test_a_candidate_may_change_no_more_of_the_runner_than_the_base_does(on_the_base, kind):
    report = replace(report_of({A: P, B: P, C: P, D: P}), runner_changes=frozenset({"_pytest.x"}))
    found = judge(report, fail_to_pass=(A, B), pass_to_pass=(C, D), runner_changes=on_the_base)
    assert found.kind is kind


def test_a_forged_report_never_resolves():
    assert verdict({A: P, B: P, C: P, D: P}, exit_code=1).kind is not VerdictKind.RESOLVED
    assert verdict({A: NO, B: P, C: P, D: P}, exit_code=0).kind is not VerdictKind.RESOLVED
    assert verdict({}, collected={}, output="4 passed").kind is VerdictKind.BROKEN


@pytest.mark.parametrize(
    ("outcome", "kind", "name"),
    [
        (Outcome.TIMED_OUT, VerdictKind.TIMED_OUT, "timeout"),
        (Outcome.OUT_OF_MEMORY, VerdictKind.TIMED_OUT, "crash"),
        (Outcome.OUTPUT_LIMIT, VerdictKind.TIMED_OUT, "crash"),
        (Outcome.INFRA_ERROR, VerdictKind.INFRA_ERROR, ""),
    ],
)
def test_a_run_that_was_stopped_is_judged_by_what_stopped_it(outcome, kind, name):
    v = verdict({A: P}, outcome=outcome, exit_code=None, error="engine gone")
    assert (v.kind, v.failure_class) == (kind, name)


def test_a_failure_of_the_sandbox_is_never_shown_to_the_model():
    assert verdict({}, outcome=Outcome.INFRA_ERROR, error="engine gone").feedback == ""


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("AssertionError: assert 1 == 2", "assertion"),
        ("assert 1 == 2", "assertion"),
        ("NameError: name 'x' is not defined", "name"),
        ("UnboundLocalError: x", "name"),
        ("TypeError: no", "type"),
        ("AttributeError: no", "type"),
        ("KeyError: 'a'", "exception"),
        ("ImportError: cannot import name 'x'", "import"),
    ],
)
def test_the_exception_decides_the_failure_class(line, name):
    assert verdict({A: line, B: P, C: P, D: P}).failure_class == name


def test_the_class_of_a_crash_is_crash():
    assert verdict({}, collected={}, exit_code=-11, output="Segmentation fault").failure_class == "crash"


def test_feedback_is_the_first_failure_in_few_lines():
    v = verdict({A: NO, B: "KeyError: 'other'", C: P, D: P})
    assert v.feedback.splitlines()[0] == A
    assert NO in v.feedback
    assert "other" not in v.feedback


def test_feedback_shows_the_test_that_broke():
    assert C in verdict({A: P, B: P, C: NO, D: P}).feedback


def test_feedback_never_shows_a_test_that_is_no_target():
    other = "tests/test_a.py::test_aa_other"
    v = judge(report_of({other: "KeyError: 1", A: NO}), fail_to_pass=(A,))
    assert A in v.feedback
    assert v.failure_class == "assertion"


def test_feedback_of_a_resolved_candidate_is_empty():
    v = verdict({A: P, B: P, C: P, D: P})
    assert (v.feedback, v.failure_class) == ("", "")


def test_a_file_that_could_not_be_collected_is_fixed_when_its_tests_pass():
    assert verdict({FILE: "SyntaxError: x"}, target=(FILE,), keep=()).kind is VerdictKind.UNCHANGED
    assert verdict({A: P, B: P}, target=(FILE,), keep=()).kind is VerdictKind.RESOLVED
    assert verdict({A: P, B: NO}, target=(FILE,), keep=()).kind is VerdictKind.UNCHANGED
    assert verdict({}, target=(FILE,), keep=(), exit_code=5).kind is not VerdictKind.RESOLVED


def test_changed_tests_are_those_whose_status_differs():
    report = report_of({A: P, B: NO})
    assert changed_tests({A: "failed", B: "failed"}, report) == {A: "passed"}
