"""Reads what a test run left: pytest's JUnit XML, checked against a signed account and the exit code.

Of other commands there is the exit code alone. The tested process wrote it all: it is untrusted text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException
from pydantic import BaseModel, ValidationError

from pipeline.core import Outcome, SandboxResult, TestCase, TestReport, TestStatus
from pipeline.testrun.command import TestCommand
from pipeline.testrun.request import ACCOUNT, JUNIT, is_trusted

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element  # the type alone: defusedxml does the parsing

COMMAND_ID = "command"  # the one test of a command that reports no tests
_MAX_OUTPUT_CHARS = 12_000
_MAX_DETAILS_CHARS = 12_000
_EXIT_OK, _EXIT_FAILED = 0, 1  # of pytest; the others mean that it did not run as asked
_STATUS_OF_TAG = {
    "failure": TestStatus.FAILED,
    "error": TestStatus.ERROR,
    "skipped": TestStatus.SKIPPED,
}
_WORST_FIRST = (TestStatus.ERROR, TestStatus.FAILED, TestStatus.SKIPPED, TestStatus.PASSED)
_COVERAGE_TOO_LOW = re.compile(r"Required test coverage of|total of \d+(\.\d+)? is less than fail-under")


def read_report(result: SandboxResult, command: TestCommand, paths: Collection[str]) -> TestReport:
    """Return what the run says of each test; `paths` are the tree's files, from which ids are rebuilt.

    A run without evidence has a `problem` in place of an exception.
    """
    output = _clip(result.stdout.text() + result.stderr.text(), _MAX_OUTPUT_CHARS)
    account = _read_account(result)
    if command.runner == "pytest":
        cases, problem = _pytest_cases(result, account, paths, output)
    else:
        cases, problem = _command_cases(result, output)
    return TestReport(
        outcome=result.outcome,
        exit_code=result.exit_code,
        cases=cases,
        output=output,
        wall_seconds=result.wall_seconds,
        cpu_seconds=result.cpu_seconds,
        problem=problem,
        runner_changes=frozenset(
            change for change, origin in account.runner_changes.items() if not is_trusted(origin)
        ),
    )


def exception_line(details: str, message: str = "") -> str:
    """Return the line that names the exception, from a traceback or from a report's message."""
    marked = re.findall(
        r"^E\s+((?:\w+\.)*\w*(?:Error|Exception|Warning|Interrupt|Exit|Failed)\b.*)", details, re.M
    )
    if marked:
        return str(marked[-1]).strip()
    plain = re.findall(r"^((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b(?::.*)?)$", details, re.M)
    first = message.strip().split("\n")[0]
    return str(plain[-1]).strip() if plain and first in ("", "collection failure") else first


def _command_cases(result: SandboxResult, output: str) -> tuple[tuple[TestCase, ...], str]:
    if result.outcome is not Outcome.EXITED:
        return (), _outcome_problem(result)
    if result.exit_code in (126, 127):
        return (), "the test command was not found in the sandbox"
    status = TestStatus.PASSED if result.exit_code == 0 else TestStatus.FAILED
    details = "" if status is TestStatus.PASSED else output
    case = TestCase(
        test_id=COMMAND_ID,
        status=status,
        message=exception_line(details) or f"exit code {result.exit_code}",
        details=details,
        seconds=result.wall_seconds,
    )
    return (case,), ""


class _Account(BaseModel):
    """What the program inside (`inside.py`) has signed."""

    exit_code: int = 0
    num_failed: int = 0  # reports of tests and of files that could not be collected
    report_sha256: str = ""  # "": there is no report
    runner_changes: dict[str, str] = {}  # what was changed -> the tree's file that the change comes from


def _pytest_cases(
    result: SandboxResult, account: _Account, paths: Collection[str], output: str
) -> tuple[tuple[TestCase, ...], str]:
    if result.outcome is not Outcome.EXITED:
        return (), _outcome_problem(result)
    data = result.collected.get(JUNIT)
    if data is None:
        lost = " that could be kept: it is too long" if account.report_sha256 else ""
        return (), f"pytest ended with exit code {result.exit_code} and wrote no report{lost}"
    if account.report_sha256 != hashlib.sha256(data).hexdigest():
        return (
            (),
            f"pytest ended with exit code {result.exit_code}, and the report is not the one that it wrote",
        )
    try:
        cases = _merged(_case(element, paths) for element in ElementTree.fromstring(data).iter("testcase"))
    except (ElementTree.ParseError, DefusedXmlException, ValueError, RecursionError) as exc:
        return (), f"the report of pytest cannot be read: {exc}"
    return cases, _disagreement(result.exit_code, account, cases, output)


def _read_account(result: SandboxResult) -> _Account:
    """Return the signed account; one that says nothing where there is none, or none that can be read."""
    try:
        return _Account.model_validate_json(result.collected.get(ACCOUNT, b""))
    except ValidationError:
        return _Account()


def _disagreement(exit_code: int | None, account: _Account, cases: Iterable[TestCase], output: str) -> str:
    """Return how report, account and exit code contradict each other; each alone is forged too easily."""
    failing = any(case.status in (TestStatus.FAILED, TestStatus.ERROR) for case in cases)
    if exit_code not in (_EXIT_OK, _EXIT_FAILED):
        return f"pytest ended with exit code {exit_code}"
    if exit_code != account.exit_code:
        return f"pytest ended with exit code {account.exit_code}, and its process with {exit_code}"
    if account.num_failed and not failing:
        return f"pytest saw {account.num_failed} failures and reports none"
    if exit_code == _EXIT_OK and failing:
        return "pytest reports failures and ended with exit code 0"
    if exit_code == _EXIT_FAILED and not failing and not _COVERAGE_TOO_LOW.search(output):
        return "pytest reports no failure and ended with exit code 1"
    return ""


def _outcome_problem(result: SandboxResult) -> str:
    return {
        Outcome.TIMED_OUT: f"the tests did not end within {result.wall_seconds:.0f} seconds",
        Outcome.OUT_OF_MEMORY: "the tests used more memory than their limit",
        Outcome.OUTPUT_LIMIT: "the tests printed more than their limit",
        Outcome.INFRA_ERROR: f"the sandbox failed: {result.error}",
    }[result.outcome]


def _case(element: Element, paths: Collection[str]) -> TestCase:
    found = next((child for child in element if child.tag in _STATUS_OF_TAG), None)
    status = TestStatus.PASSED if found is None else _STATUS_OF_TAG[found.tag]
    details = "" if found is None else _clip(found.text or "", _MAX_DETAILS_CHARS)
    message = "" if found is None else found.get("message", "")
    return TestCase(
        test_id=_test_id(element, paths),
        status=status,
        message=exception_line(details, message),
        details=details,
        seconds=_seconds(element.get("time", "")),
    )


def _test_id(element: Element, paths: Collection[str]) -> str:
    """Rebuild the node id: the module is the longest part of the class name that is a file of the tree.

    The `file` attribute says where a test is written, which for an inherited one is another module.
    """
    name, classname, file = (element.get(key, "") for key in ("name", "classname", "file"))
    if not classname:  # a module that could not be collected
        return file or _module_path(name.split("."), paths)[0]
    path, num_parts = _module_path(classname.split("."), paths)
    if not path:
        path, num_parts = file, len(file.removesuffix(".py").split("/"))
        if classname == file.replace("/", "."):  # a document with doctests
            num_parts = len(classname.split("."))
    return "::".join([path, *classname.split(".")[num_parts:], name])


def _module_path(parts: list[str], paths: Collection[str]) -> tuple[str, int]:
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length]) + ".py"
        if path in paths:
            return path, length
    return "", 0


def _merged(cases: Iterable[TestCase]) -> tuple[TestCase, ...]:
    """One case for each id, the worst: a test that fails and whose teardown errors is reported twice."""
    by_id: dict[str, TestCase] = {}
    for case in cases:
        other = by_id.get(case.test_id)
        if other is None or _WORST_FIRST.index(case.status) < _WORST_FIRST.index(other.status):
            by_id[case.test_id] = case
    return tuple(by_id.values())


def _seconds(text: str) -> float:
    try:
        return max(float(text), 0.0)
    except ValueError:
        return 0.0


def _clip(text: str, max_chars: int) -> str:
    # The end says most: pytest's summary, a traceback's exception.
    if len(text) <= max_chars:
        return text
    head, tail = text[: max_chars // 4], text[-max_chars * 3 // 4 :]
    return f"{head}\n... {len(text) - len(head) - len(tail)} characters left out ...\n{tail}"
