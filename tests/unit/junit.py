"""Sandbox results as pytest would leave them: the scripted edge of the planner's tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from xml.sax.saxutils import quoteattr

from pipeline.core import CapturedStream, Outcome, SandboxResult

PASSED, SKIPPED = "passed", "skipped"


def pytest_result(outcomes: Mapping[str, str], *, output: str = "", **overrides) -> SandboxResult:
    """Return what pytest leaves for these tests: "passed", "skipped", or the exception's line of a failure.

    An id without `::` is a file that could not be collected.
    """
    failing = any(text not in (PASSED, SKIPPED) for text in outcomes.values())
    fields = {
        "outcome": Outcome.EXITED,
        "exit_code": 1 if failing else 0,
        "stdout": CapturedStream(head=output.encode(), num_bytes=len(output.encode())),
        "collected": {"junit.xml": junit_xml(outcomes)},
        "wall_seconds": 0.5,
        "cpu_seconds": 0.4,
    }
    result = SandboxResult(**{**fields, **overrides})
    return replace(result, collected={"account.json": account(result), **result.collected})


def account(result: SandboxResult, **overrides) -> bytes:
    """Return what the program inside signs of a run: the truth, but for what is overridden."""
    report = result.collected.get("junit.xml")
    digest = hashlib.sha256(report).hexdigest() if report is not None else ""
    said = {"exit_code": result.exit_code or 0, "num_failed": 0, "report_sha256": digest}
    return json.dumps({**said, "runner_changes": {}, **overrides}).encode()


def junit_xml(outcomes: Mapping[str, str]) -> bytes:
    """Return the report in pytest's xunit1 form."""
    cases = "".join(_case(test_id, text) for test_id, text in outcomes.items())
    return f'<?xml version="1.0"?><testsuites><testsuite>{cases}</testsuite></testsuites>'.encode()


def _case(test_id: str, text: str) -> str:
    path, *names = test_id.split("[")[0].split("::")
    module = path.removesuffix(".py").replace("/", ".")
    if not names:
        body = f'<error message="collection failure">{_escape(f"E   {text}")}</error>'
        return f'<testcase classname="" name="{module}" file="{path}" time="0.0">{body}</testcase>'
    classname = ".".join([module, *names[:-1]])
    name = test_id.split("::", len(names))[-1]
    if text == PASSED:
        body = ""
    elif text == SKIPPED:
        body = '<skipped message="no"/>'
    else:
        details = _escape(">   line\nE   " + text)
        body = f"<failure message={quoteattr(text)}>{details}</failure>"
    return (
        f'<testcase classname="{classname}" name={quoteattr(name)} file="{path}" time="0.1">{body}</testcase>'
    )


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
