"""Says whether a test's failure on the base shows the issue, or merely that the test is wrong.

Kept is an assertion of the test that does not hold, and an exception out of the project's code that the issue
names. Everything else that can go wrong with a test is the test's own fault.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core import Outcome, TestReport, TestStatus

_EXCEPTION = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Warning|Exit|Interrupt|Iteration|Failed))\b")
_NOT_RAISED = re.compile(r"DID NOT RAISE <class '(?:\w+\.)*(\w+)'>")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_OWN_FAULTS = frozenset(
    {"NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError"}
)
_MAX_SIGNATURE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a draft's run on the base says of it."""

    reason: str = ""  # why it is not kept; "" where it is
    signature: str = ""  # of the failure: the same for tests that fail in the same way

    @property
    def is_kept(self) -> bool:
        """Whether the failure shows the issue."""
        return not self.reason


def judge_reproduction(
    report: TestReport,
    *,
    test_id: str,
    frames: Sequence[tuple[str, int]],
    statement: str,
    calls: Sequence[str],
) -> Judgement:
    """Return whether the test failed on the base as it should.

    `frames`: the places (path, line) of its traceback inside the tree, outermost first.
    """
    if report.outcome is not Outcome.EXITED:
        return Judgement("it does not end within the limits")
    case = next((case for case in report.cases if case.test_id == test_id), None)
    if case is None:
        return Judgement("it cannot be collected")
    if case.status is TestStatus.PASSED:
        return Judgement("it passes on the base")
    if case.status is not TestStatus.FAILED:
        return Judgement("it does not get as far as its first line")
    kind = exception_of(case.message)
    in_test = not frames or frames[-1][0] == test_id.partition("::")[0]
    if kind in _OWN_FAULTS:
        return Judgement(f"it fails by its own fault: {kind}")
    expected = _NOT_RAISED.search(case.message)
    if expected and expected[1] not in re.findall(r"\w+", statement):
        return Judgement(f"it waits for {expected[1]}, which the issue does not name")
    if in_test and kind not in ("AssertionError", "Failed"):
        return Judgement(f"it fails by its own fault: {kind}")
    if not in_test and kind not in re.findall(r"\w+", statement):
        return Judgement(f"it ends in {kind}, which the issue does not name")
    told = _ADDRESS.sub("0x", case.message)[:_MAX_SIGNATURE_CHARS]
    return Judgement(signature=f"{', '.join(calls)}: {told}")


def exception_of(message: str) -> str:
    """Return the name of the exception in a test's message; a bare `assert ...` is an AssertionError."""
    first = message.strip().split("\n")[0]
    if first.startswith("assert "):
        return "AssertionError"
    match = _EXCEPTION.match(first)
    return match[1] if match else first[:40] or "unknown"
