"""Says why a suite could not start, and which test it hangs in."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable

from pipeline.core import TestCase, TestReport
from pipeline.exceptions import InputError, LoopwrightError, PrepareError

_MISSING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'|^.*No module named ([\w.]+)$", re.M)
_HANG = re.compile(r'^  File "(?:/workspace/)?([^"\n]+\.py)", line (\d+) in (test\w*)', re.M)
_USAGE, _NO_TESTS = 4, 5  # exit codes of pytest


def missing_module(text: str, paths: Iterable[str]) -> str:
    """Return the module that could not be imported and is no part of the tree, or an empty string."""
    own = {part for path in paths for part in path.removesuffix(".py").split("/")[:2]}
    for match in _MISSING.finditer(text):
        module = (match[1] or match[2]).partition(".")[0]
        if module not in own:
            return module
    return ""


def explain_no_start(
    report: TestReport, failures: Iterable[TestCase], paths: Collection[str]
) -> LoopwrightError | None:
    """Return the error that says why no test could run, or None if the failures are the code's own."""
    texts = [case.details for case in failures] or [report.output]
    missing = [missing_module(text, paths) for text in texts]
    if all(missing):
        return PrepareError(
            f"the tests cannot start: module {missing[0]!r} is not installed in the target's environment",
            hint=f"add {missing[0]!r} to the repository's requirements, or narrow the test command",
        )
    if report.exit_code == _NO_TESTS:
        return InputError("the test command found no tests", hint="check the paths that it names")
    if report.exit_code == _USAGE and not _blames_the_tree(report.output):
        return InputError(
            f"pytest refused the test command: {_last_line(report.output)}", hint="run it by hand to see why"
        )
    if "was not found in the sandbox" in report.problem:
        return InputError(report.problem, hint="use a command of the target's environment, or pytest")
    return None


def hung_test(report: TestReport, sources: dict[str, str]) -> str:
    """Return the id of the test that ran when the limit came, or an empty string.

    It is read from the traceback that pytest's faulthandler plugin prints; `sources`: the tree's test files.
    """
    found = [m for m in _HANG.finditer(report.output) if m[1] in sources]
    if not found:
        return ""
    path, line, name = found[-1].groups()  # the outermost frame comes last
    return f"{path}::{_qualname(sources[path], int(line), name)}"


def _blames_the_tree(output: str) -> bool:
    """Say whether a conftest failed to load for another reason than a module that is missing."""
    return "while loading conftest" in output and not _MISSING.search(output)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or ["no output"])[-1]


def _qualname(source: str, line: int, name: str) -> str:
    """Return the name with its class, as a node id spells it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return name
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.lineno <= line <= (node.end_lineno or 0):
            return f"{node.name}::{name}"
    return name
