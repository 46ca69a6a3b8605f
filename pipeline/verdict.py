"""Judges a candidate by its test run: what it fixed, what it broke, and in few words why it failed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from pipeline.core import Outcome, TestCase, TestReport, TestStatus, Verdict, VerdictKind

_MAX_FEEDBACK_LINES = 14
_MAX_FEEDBACK_CHARS = 1200
_MAX_LINE_CHARS = 240
_BAD = (TestStatus.FAILED, TestStatus.ERROR)
# The first that the exception's line matches.
_CLASSES = (
    ("syntax", re.compile(r"\b(SyntaxError|IndentationError|TabError)\b")),
    ("import", re.compile(r"\b(ImportError|ModuleNotFoundError)\b")),
    ("name", re.compile(r"\b(NameError|UnboundLocalError)\b")),
    ("type", re.compile(r"\b(TypeError|AttributeError)\b")),
    ("assertion", re.compile(r"\bAssertionError\b|^assert\b|\bFailed: |DID NOT RAISE")),
)


def judge(
    report: TestReport,
    *,
    fail_to_pass: Sequence[str],
    pass_to_pass: Collection[str] = (),
    runner_changes: Collection[str] = (),
) -> Verdict:
    """Return the verdict on one run; `runner_changes` are those of the base.

    A target that was skipped or is missing is not fixed, and a passing test of which that is true now is
    broken. A run that changes more in the test runner than the base does is no evidence. An id without `::`
    is a file or the whole command: it passes when something ran and nothing of it failed.
    """
    if report.outcome is not Outcome.EXITED:
        return _stopped(report, num_target=len(fail_to_pass))
    if added := report.runner_changes.difference(runner_changes):
        report = replace(report, problem=f"the code under test changes the test runner: {min(added)}")
    statuses = {case.test_id: case.status for case in report.cases}
    fixed = [test_id for test_id in fail_to_pass if _passes(test_id, statuses, report)]
    broken = [test_id for test_id in pass_to_pass if _is_broken(test_id, statuses)]
    failures = _failures(report, {*fail_to_pass, *broken})
    kind = _kind(report, num_fixed=len(fixed), num_target=len(fail_to_pass), num_broken=len(broken))
    done = kind is VerdictKind.RESOLVED
    return Verdict(
        kind=kind,
        num_fixed=len(fixed),
        num_target=len(fail_to_pass),
        num_broken=len(broken),
        num_kept=len(pass_to_pass) - len(broken),
        fixed=tuple(fixed),
        feedback="" if done else feedback(failures, report),
        failure_class="" if done else failure_class(failures, report),
        wall_seconds=report.wall_seconds,
    )


def failure_class(failures: Sequence[TestCase], report: TestReport) -> str:
    """Return what kind of failure the first one is; a failure to collect outranks the others."""
    text = (failures[0].message or failures[0].details) if failures else report.output
    for name, pattern in _CLASSES:
        if pattern.search(text):
            return name
    return "exception" if failures else "crash"


def feedback(failures: Sequence[TestCase], report: TestReport) -> str:
    """Return the first failure as a few lines: the test, the lines that pytest marks, the exception."""
    if not failures:
        text = "\n".join(filter(None, [report.problem, *report.output.strip().splitlines()[-6:]]))
        return text[:_MAX_FEEDBACK_CHARS]
    first = failures[0]
    lines = first.details.splitlines()
    marked = [line for line in lines if line.startswith(("E ", ">"))] or lines[-6:] or [first.message]
    if len(marked) > _MAX_FEEDBACK_LINES:
        marked = [*marked[: _MAX_FEEDBACK_LINES - 3], "...", *marked[-2:]]
    text = "\n".join([first.test_id, *(line[:_MAX_LINE_CHARS] for line in marked)])
    return text[:_MAX_FEEDBACK_CHARS]


def changed_tests(before: Mapping[str, str], report: TestReport) -> dict[str, str]:
    """Return the tests whose status differs from `before` (test id -> status), with their new status."""
    after = {case.test_id: case.status.value for case in report.cases}
    return {test_id: status for test_id, status in after.items() if before.get(test_id, status) != status}


def _stopped(report: TestReport, *, num_target: int) -> Verdict:
    infra = report.outcome is Outcome.INFRA_ERROR
    return Verdict(
        kind=VerdictKind.INFRA_ERROR if infra else VerdictKind.TIMED_OUT,
        num_target=num_target,
        # What broke in the sandbox says nothing of the code, so the model must not read it.
        feedback="" if infra else report.problem,
        failure_class="" if infra else "timeout" if report.outcome is Outcome.TIMED_OUT else "crash",
        wall_seconds=report.wall_seconds,
    )


def _kind(report: TestReport, *, num_fixed: int, num_target: int, num_broken: int) -> VerdictKind:
    num_run = sum(case.status is not TestStatus.SKIPPED and "::" in case.test_id for case in report.cases)
    could_not_start = not num_run and any("::" not in case.test_id for case in report.cases)
    # A report that contradicts itself is no evidence, not even of a part.
    if report.problem or (could_not_start and num_broken):
        return VerdictKind.BROKEN
    if num_broken:
        return VerdictKind.REGRESSED
    if num_target and num_fixed == num_target:
        return VerdictKind.RESOLVED
    return VerdictKind.PARTIAL if num_fixed else VerdictKind.UNCHANGED


def _passes(test_id: str, statuses: Mapping[str, TestStatus], report: TestReport) -> bool:
    if "::" in test_id or test_id in statuses:
        return statuses.get(test_id) is TestStatus.PASSED
    if "/" not in test_id and not test_id.endswith(".py"):
        return report.exit_code == 0  # the whole command
    inside = [status for other, status in statuses.items() if other.startswith(f"{test_id}::")]
    return TestStatus.PASSED in inside and not any(status in _BAD for status in inside)


def _is_broken(test_id: str, statuses: Mapping[str, TestStatus]) -> bool:
    return statuses.get(test_id) is not TestStatus.PASSED


def _failures(report: TestReport, relevant: Collection[str]) -> list[TestCase]:
    """Return the failing tests that count, those that could not be collected first."""
    files = {test_id.partition("::")[0] for test_id in relevant}
    bad = [case for case in report.cases if case.status in _BAD]
    counted = [
        case
        for case in bad
        if case.test_id in relevant or case.test_id in files or case.test_id.partition("::")[0] in relevant
    ]
    return sorted(counted or bad, key=lambda case: "::" in case.test_id)
