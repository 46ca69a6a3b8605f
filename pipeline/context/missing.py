"""Find definitions that failing tests ask for and that the tree does not have.

What is missing is told by the exception: a name that cannot be imported, a module or class without such an
attribute. What it should be, function, method or class, is told by how the tests use it.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Literal

from pipeline.context.failures import frames, is_test_path
from pipeline.context.signature import OPEN, parameters_of
from pipeline.context.symbols import definitions, source_lines
from pipeline.core import TestCase
from pipeline.snapshot import Snapshot
from pipeline.unwritten import is_unwritten

Kind = Literal[
    "function", "async function", "method", "async method", "classmethod", "property", "class", "error"
]

_IMPORT = re.compile(r"cannot import name '(\w+)' from '[\w.]+' \((?:/workspace/)?([^)\n]+\.py)\)")
_MODULE = re.compile(r"AttributeError: module '([\w.]+)' has no attribute '(\w+)'")
_OBJECT = re.compile(r"AttributeError: (?:type object )?'(\w+)'(?: object)? has no attribute '(\w+)'")
_NAME = re.compile(r"NameError: name '(\w+)' is not defined")
_ERROR_NAME = re.compile(r"\w*(Error|Exception|Warning)")
_MAX_CALLS = 4
_MAX_CALL_CHARS = 100
_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A definition that is not there."""

    path: str  # of the module that is to have it
    owner: str  # the class of a method; "" at module level
    name: str
    kind: Kind
    calls: tuple[str, ...] = ()  # how the tests call it, as code
    parameters: str = OPEN  # what it must take for that, as code; without self
    beside: tuple[str, ...] = ()  # definitions of the module that the same tests use
    exported_by: str = ""  # the package file that must import it, where tests import it from there

    @property
    def qualname(self) -> str:
        """Its name with its class."""
        return f"{self.owner}.{self.name}" if self.owner else self.name


def find_missing(
    snapshot: Snapshot,
    failures: Sequence[TestCase],
    *,
    functions: Sequence[str] = (),
    implements: bool = False,
) -> tuple[Missing, ...]:
    """Return what the failing tests ask for in vain, and what of `functions` (path::qualname) is absent.

    `implements`: a name that the code itself misses counts too; else that is taken for a slip of the code.
    """
    search = _Search(snapshot, implements)
    found = [missing for case in failures for missing in search.asked_for_by(case)]
    paths = [case.test_id.partition("::")[0] for case in failures]
    for place in functions:
        path, _, qualname = place.partition("::")
        owner, _, name = qualname.rpartition(".")
        found += search.missing(path, owner, name, list(dict.fromkeys(paths)), is_told=False)
    return tuple({(one.path, one.qualname): one for one in reversed(found)}.values())[::-1]


@dataclass(frozen=True)
class _Search:
    snapshot: Snapshot
    implements: bool

    def asked_for_by(self, case: TestCase) -> Iterator[Missing]:
        text = case.message if "Error" in case.message else case.details
        places = [path for path, _ in frames(case.details, self.snapshot)]
        tests = list(dict.fromkeys([case.test_id.partition("::")[0], *filter(is_test_path, places)]))
        in_test = bool(places) and is_test_path(places[-1])
        if match := _IMPORT.search(text):
            yield from self.missing(match[2], "", match[1], tests)
            for path in tests:
                yield from self._imported_in_vain(path)
        elif (match := _MODULE.search(text)) and (in_test or self.implements):
            yield from self.missing(self._module_path(match[1]), "", match[2], tests)
        elif (match := _OBJECT.search(text)) and (in_test or self.implements):
            for path in self._paths_of_class(match[1]):
                yield from self.missing(path, match[1], match[2], tests)
        elif (match := _NAME.search(text)) and self.implements and places and not in_test:
            yield from self.missing(places[-1], "", match[1], [*tests, places[-1]])

    def missing(
        self, path: str, owner: str, name: str, users: Sequence[str], *, is_told: bool = True
    ) -> Iterator[Missing]:
        """Yield the definition where it is one that can be added: at most one.

        `is_told`: an exception says that it is not there, whatever a star import or __getattr__ may bring.
        """
        module, usage = self._read(path), self._usage(name, users)
        if module is None or _bound(module, owner) & ({name} if is_told else {name, "*", "__getattr__"}):
            return
        kind = usage.kind_in_class(owner) if owner else usage.kind
        if kind is None or (owner and not self._may_grow(path, owner)):
            return
        if kind == "property" and not self.implements and _is_set_in(module, name):
            return  # an attribute that is not set, or under a misspelled name: a slip of the code
        home = "" if owner else self._home(path, module, usage)
        used = tuple(sorted(usage.names & _bound(self._read(home or path) or module, owner)))
        yield Missing(
            path=home or path,
            owner=owner,
            name=name,
            kind=kind,
            calls=usage.calls,
            parameters=usage.parameters,
            beside=used,
            exported_by=path if home else "",
        )

    def _usage(self, name: str, users: Sequence[str]) -> _Usage:
        """Return how these files use the name; where none calls it, how all tests do."""
        usage = _Usage(name, [self._read(user) for user in users])
        if usage.calls:
            return usage
        tests = [path for path in self.snapshot.python_paths if is_test_path(path)]
        named = [path for path in tests if name.encode() in self._data(path)]
        return _Usage(name, [self._read(path) for path in dict.fromkeys([*users, *named])])

    def _imported_in_vain(self, test_path: str) -> Iterator[Missing]:
        """Yield all names that the test file imports in vain: the exception names but the first."""
        tree = self._read(test_path)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                path = self._module_path(node.module)
                for alias in node.names if path and not is_test_path(path) else ():
                    submodule = f"{path.removesuffix('__init__.py')}{alias.name}"
                    if alias.name != "*" and not self._is_module(submodule):
                        yield from self.missing(path, "", alias.name, [test_path], is_told=False)

    def _home(self, path: str, module: ast.Module, usage: _Usage) -> str:
        """Return the module that is to define what tests import from a package; "" for its own file."""
        if not path.endswith("__init__.py"):
            return ""
        folder = path.removesuffix("__init__.py")
        sources: Counter[str] = Counter()
        for node in module.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {alias.asname or alias.name for alias in node.names}
                home = folder + node.module.rpartition(".")[2] + ".py"
                if self._read(home) is not None:
                    sources[home] += len(names & usage.names)
        best = max(sources, key=lambda home: sources[home], default="")
        return best if best and sources[best] else ""

    def _may_grow(self, path: str, owner: str) -> bool:
        """Say whether the class is there, and is not itself yet to be written."""
        data = self.snapshot.read_bytes(path)
        for definition in definitions(path, data):
            if definition.qualname == owner and definition.kind == "class":
                lines = source_lines(data)[definition.start_line - 1 : definition.end_line]
                return not is_unwritten("\n".join(lines))
        return False

    def _paths_of_class(self, name: str) -> list[str]:
        paths = [path for path in self.snapshot.python_paths if not is_test_path(path)]
        found = [
            path
            for path in paths
            if name.encode() in self._data(path)
            and any(d.qualname == name and d.kind == "class" for d in definitions(path, self._data(path)))
        ]
        return found if len(found) == 1 else []  # of two namesakes, which is meant would be a guess

    def _module_path(self, dotted: str) -> str:
        tail = dotted.replace(".", "/")
        ends = (f"{tail}.py", f"{tail}/__init__.py")
        found = [p for p in self.snapshot.python_paths if any(p == e or p.endswith(f"/{e}") for e in ends)]
        return min(found, key=len, default="")

    def _is_module(self, stem: str) -> bool:
        return bool({f"{stem}.py", f"{stem}/__init__.py"} & set(self.snapshot.paths))

    def _read(self, path: str) -> ast.Module | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(self._data(path)) if path else None
        except _PARSE_ERRORS:
            return None

    def _data(self, path: str) -> bytes:
        try:
            return self.snapshot.read_bytes(path)
        except FileNotFoundError:
            return b"("  # does not parse


class _Usage:
    """How some files use a name."""

    def __init__(self, name: str, trees: Iterable[ast.Module | None]) -> None:
        self.name = name
        self._nodes = [node for tree in trees if tree for node in ast.walk(tree)]

    @cached_property
    def names(self) -> frozenset[str]:
        """All names and attributes in the files."""
        found = {n.id for n in self._nodes if isinstance(n, ast.Name)}
        return frozenset(found | {n.attr for n in self._nodes if isinstance(n, ast.Attribute)})

    @cached_property
    def calls(self) -> tuple[str, ...]:
        """The calls of the name as code, the shortest first."""
        found = dict.fromkeys(ast.unparse(node) for node in self._calls)
        return tuple(sorted((text for text in found if len(text) <= _MAX_CALL_CHARS), key=len)[:_MAX_CALLS])

    @property
    def parameters(self) -> str:
        """What a function of that name must take, as code."""
        return parameters_of(self._calls)

    @property
    def kind(self) -> Kind | None:
        """What the name must be at module level; None for a constant, or where that cannot be told."""
        if self._is_caught or _ERROR_NAME.fullmatch(self.name):
            return "error"
        if self.name.isupper() or (not self._calls and self._is_compared):
            return None
        if self.name[0].isupper():
            return "class"
        return "async function" if self._is_awaited else "function"

    def kind_in_class(self, owner: str) -> Kind | None:
        """What the name must be in the class."""
        if self.name.startswith("__"):
            return None
        if not self._calls:
            return (
                "property"
                if any(self._is_it(n) for n in self._nodes if isinstance(n, ast.Attribute))
                else None
            )
        for call in self._calls:
            receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
            if isinstance(receiver, ast.Name) and receiver.id == owner.rpartition(".")[2]:
                return "classmethod"
        return "async method" if self._is_awaited else "method"

    @cached_property
    def _calls(self) -> list[ast.Call]:
        return [node for node in self._nodes if isinstance(node, ast.Call) and self._is_it(node.func)]

    @property
    def _is_awaited(self) -> bool:
        awaited = [node.value for node in self._nodes if isinstance(node, ast.Await)]
        return any(isinstance(value, ast.Call) and self._is_it(value.func) for value in awaited)

    @property
    def _is_caught(self) -> bool:
        types = [n.type for n in self._nodes if isinstance(n, ast.ExceptHandler) and n.type]
        for node in self._nodes:
            called = getattr(node, "func", None)
            if str(getattr(called, "attr", getattr(called, "id", ""))).lower().endswith("raises"):
                types += getattr(node, "args", [])[:1]
        return any(self._is_it(part) for kind in types for part in ast.walk(kind))

    @property
    def _is_compared(self) -> bool:
        compared = [node for node in self._nodes if isinstance(node, ast.Compare)]
        return any(self._is_it(side) for node in compared for side in (node.left, *node.comparators))

    def _is_it(self, node: ast.AST | None) -> bool:
        return getattr(node, "attr", getattr(node, "id", None)) == self.name


def _bound(module: ast.Module, owner: str) -> frozenset[str]:
    """Return the names that a module or a class of it binds; `*` for a star import."""
    scope: ast.AST | None = module
    for part in filter(None, owner.split(".")):
        body = getattr(scope, "body", [])
        scope = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == part), None)
    return frozenset(_names_bound_in(scope)) if scope else frozenset()


def _is_set_in(module: ast.Module, name: str) -> bool:
    """Say whether code assigns to an attribute of this name, or of one much like it."""
    nodes = (node for node in ast.walk(module) if isinstance(node, ast.Attribute))
    names = {node.attr for node in nodes if isinstance(node.ctx, ast.Store)}
    return bool(get_close_matches(name, names, n=1, cutoff=0.8))


def _names_bound_in(scope: ast.AST) -> Iterator[str]:
    """Yield the names bound in a scope, in its branches too, but not in the scopes within it."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
            continue
        waiting += ast.iter_child_nodes(node)
