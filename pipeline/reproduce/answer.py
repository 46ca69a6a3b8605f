"""Makes a test file of what a model said, or says why it is none: one test function that uses the project."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass

_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)
_FENCE = re.compile(r"```[\w+.-]*[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_MAX_LINES = 40
_NO_PROOF = frozenset({"skip", "skipif", "xfail", "importorskip", "exit", "_exit", "fail", "sleep", "system"})


class NoTestError(ValueError):
    """The answer holds no usable test; the message says why, in plain words."""


@dataclass(frozen=True, slots=True)
class TestDraft:
    """A test as the model wrote it."""

    __test__ = False  # not a test class, whatever its name says to pytest

    name: str
    source: str  # of the whole new test file
    function: str  # of the test alone
    calls: tuple[str, ...]  # what of the project it calls, sorted


def read_test(answer: str, *, prefill: str, names: Collection[str]) -> TestDraft:
    """Return the first test function of the answer as a file of its own.

    `names`: what the project defines; a test that calls nothing of it shows nothing.

    Raises:
        NoTestError: there is none, it does not parse, or it cannot show anything.
    """
    tree = _parsed(_code(prefill + answer))
    tests = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]
    if not tests:
        raise NoTestError("the answer holds no test function")
    test = tests[0]
    test.decorator_list = []  # marks and parameters are not needed, and can hide the test
    if test.args.args or test.args.posonlyargs or test.args.kwonlyargs:
        raise NoTestError("the test asks for fixtures")
    if (test.end_lineno or 0) - test.lineno > _MAX_LINES:
        raise NoTestError("the test is too long")
    if not any(isinstance(node, ast.Assert) or _is_expectation(node) for node in ast.walk(test)):
        raise NoTestError("the test asserts nothing")
    called = {_called(node) for node in ast.walk(test) if isinstance(node, ast.Call)}
    if named := called & _NO_PROOF:
        raise NoTestError(f"the test calls {min(named)}")
    used = sorted(called & set(names))
    if not used:
        raise NoTestError("the test calls nothing of the project")
    imports = [ast.unparse(n) for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    function = ast.unparse(test)
    return TestDraft(test.name, "\n".join([*imports, "", "", function, ""]), function, tuple(used))


def _code(text: str) -> str:
    """Return the code of the first fence, up to the end of its first test."""
    found = _FENCE.search(text)
    return found[1] if found else text


def _parsed(code: str) -> ast.Module:
    """Parse, leaving out what behind the test does not parse: an answer may be cut off anywhere.

    Raises:
        NoTestError: there is no beginning that parses.
    """
    lines = code.split("\n")
    start = next((i for i, line in enumerate(lines) if line.startswith("def test")), None)
    if start is None:
        raise NoTestError("the answer holds no test function")
    ends = [i for i in range(start + 1, len(lines)) if lines[i] and not lines[i][0].isspace()]
    for end in (len(lines), *ends[:1]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse("\n".join(lines[:end]))
        except _PARSE_ERRORS as exc:
            problem = type(exc).__name__
    raise NoTestError(f"the test does not parse: {problem}")


def _is_expectation(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _called(node) in ("raises", "warns")


def _called(node: ast.Call) -> str:
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))
