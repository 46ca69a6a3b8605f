"""Finds the test that a new one should look like: its imports and style are what a draft is to imitate."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)
_WORD = re.compile(r"[A-Za-z_]\w*")
_MAX_TEST_LINES = 25
_MAX_IMPORT_LINES = 20
_NAME = re.compile(r"test_[^/]*\.py|[^/]*_test\.py")


@dataclass(frozen=True, slots=True)
class Example:
    """An existing test file, and the test of it that is nearest to what is asked for."""

    path: str
    imports: str  # its imports of modules, as they stand
    test: str  # one test function; "" where none is short enough


def find_example(sources: Mapping[str, str], names: Collection[str], statement: str) -> Example | None:
    """Return the test file that speaks most of these names and of the issue, or None where there is none.

    `sources`: the tree's test files; `names`: of the functions that the issue is about, best first.
    """
    order = list(names)
    wanted = {name: len(order) - i for i, name in enumerate(order)}
    spoken = frozenset(_WORD.findall(statement))

    def score(path: str) -> float:
        words = set(_WORD.findall(sources[path]))
        return sum(weight for name, weight in wanted.items() if name in words) + len(words & spoken) / 1000

    paths = sorted(path for path in sources if _NAME.fullmatch(PurePosixPath(path).name))
    for path in sorted(paths, key=score, reverse=True):
        tree = _parsed(sources[path])
        if tree is not None:
            return Example(path, _imports(tree), _test(tree, wanted, spoken))
    return None


def new_test_path(example: Example, taken: Collection[str]) -> str:
    """Return a path beside the example that nothing has and that the project's runner collects."""
    place = PurePosixPath(example.path)
    ends = place.name.endswith("_test.py")
    for number in range(len(taken) + 1):
        stem = f"issue{number or ''}"
        path = str(place.with_name(f"{stem}_test.py" if ends else f"test_{stem}.py"))
        if path not in taken:
            return path
    raise AssertionError("more paths are taken than there are")


def _parsed(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except _PARSE_ERRORS:
        return None


def _imports(tree: ast.Module) -> str:
    found = [
        ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__"
    ]
    return "\n".join(found[:_MAX_IMPORT_LINES])


def _test(tree: ast.Module, wanted: Mapping[str, int], spoken: Collection[str]) -> str:
    """Return the short test that uses the most wanted names, without decorators, which may need more."""

    def score(text: str) -> tuple[float, int]:
        words = set(_WORD.findall(text))
        weight = sum(weight for name, weight in wanted.items() if name in words)
        return weight + len(words & set(spoken)) / 1000, -len(text)

    texts = [ast.unparse(node) for node in _test_functions(tree.body) if not node.decorator_list]
    short = [text for text in texts if text.count("\n") < _MAX_TEST_LINES]
    return max(short, key=score, default="")


def _test_functions(body: Iterable[ast.stmt]) -> Iterable[ast.FunctionDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield node
