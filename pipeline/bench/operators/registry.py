"""What a mutation operator is: a name, what the bug is like, and what finds its places in a function."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, overload

from pipeline.bench.source import Edit, Source

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Find = Callable[["FunctionView"], Iterator[Edit]]

_A = TypeVar("_A", bound=ast.AST)
_B = TypeVar("_B", bound=ast.AST)
_C = TypeVar("_C", bound=ast.AST)
_ATOMS = (ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.Subscript, ast.List, ast.Dict, ast.Set)


@dataclass(frozen=True, slots=True)
class Operator:
    """A kind of bug."""

    name: str
    description: str
    find: Find


OPERATORS: dict[str, Operator] = {}


def operator(name: str, description: str) -> Callable[[Find], Find]:
    """Enter the decorated function into the registry."""

    def enter(find: Find) -> Find:
        assert name not in OPERATORS
        OPERATORS[name] = Operator(name, description, find)
        return find

    return enter


@dataclass(frozen=True)
class FunctionView:
    """A function, as operators look at it. Docstrings, f-strings, annotations and decorators are left out."""

    source: Source
    node: FunctionNode
    qualname: str
    owner: ast.ClassDef | None = None  # the class of a method

    @overload
    def nodes(self, first: type[_A], /) -> Iterator[_A]: ...
    @overload
    def nodes(self, first: type[_A], second: type[_B], /) -> Iterator[_A | _B]: ...
    @overload
    def nodes(self, first: type[_A], second: type[_B], third: type[_C], /) -> Iterator[_A | _B | _C]: ...
    def nodes(self, *kinds: type[ast.AST]) -> Iterator[Any]:
        """Return the nodes of these kinds in the body, outermost first, in order of the text."""
        return (node for node in self._parents if isinstance(node, kinds))

    def parent(self, node: ast.AST) -> ast.AST:
        """Return what holds the node; the function itself for the statements of its body."""
        return self._parents[node]

    def statement(self, node: ast.AST) -> ast.stmt:
        """Return the innermost statement that holds the node."""
        while not isinstance(node, ast.stmt):
            node = self._parents[node]
        return node

    def text(self, node: ast.AST) -> str:
        """Return the node's text."""
        return self.source.segment(node)

    def replace(self, node: ast.AST, text: str) -> Edit:
        """Return the edit that puts a text in the node's place."""
        return Edit(*self.source.span(node), text)

    def replace_by(self, node: ast.expr, other: ast.expr) -> Edit:
        """Return the edit that puts another expression in an expression's place."""
        text = self.text(other)
        return self.replace(node, text if isinstance(other, _ATOMS) else f"({text})")

    def between(self, left: ast.AST, right: ast.AST, pattern: str, text: str) -> Iterator[Edit]:
        """Return the edit of the first match between two nodes; none where a comment stands there."""
        start, end = self.source.span(left)[1], self.source.span(right)[0]
        gap = self.source.text[start:end]
        match = re.search(pattern, gap)
        if match and "#" not in gap:
            yield Edit(start + match.start(), start + match.end(), text)

    def remove(self, node: ast.stmt) -> Edit:
        """Return the edit that removes a statement with its lines; `pass` stands in where one must be."""
        start, end = self.source.span(node)
        first = self.source.line_start(node.lineno)
        last = self.source.line_start((node.end_lineno or node.lineno) + 1)
        before, after = self.source.text[first:start], self.source.text[end:last]
        alone = not before.strip() and not after.partition("#")[0].strip()
        if alone and len(self._block(node)) > 1:
            return Edit(first, last, "")
        return Edit(start, end, "pass")

    def _block(self, node: ast.stmt) -> list[ast.stmt]:
        for _, value in ast.iter_fields(self._parents[node]):
            if isinstance(value, list) and node in value:
                return value
        return []

    @cached_property
    def _parents(self) -> dict[ast.AST, ast.AST]:
        body = self.node.body[1:] if _is_docstring(self.node.body[0]) else self.node.body
        parents: dict[ast.AST, ast.AST] = {}
        stack: list[tuple[ast.AST, ast.AST]] = [(child, self.node) for child in reversed(body)]
        while stack:
            node, parent = stack.pop()
            parents[node] = parent
            stack += [(child, node) for child in reversed(list(_children(node)))]
        return parents


def _children(node: ast.AST) -> Iterator[ast.AST]:
    # The positions of what stands in an f-string are wrong before Python 3.12.
    skipped: set[int] = set()
    if isinstance(node, FunctionNode | ast.ClassDef):
        skipped.update(id(child) for child in node.decorator_list)
        if _is_docstring(node.body[0]):
            skipped.add(id(node.body[0]))
    if isinstance(node, FunctionNode):
        skipped.add(id(node.returns))
    if isinstance(node, ast.AnnAssign | ast.arg):
        skipped.add(id(node.annotation))
    for child in ast.iter_child_nodes(node):
        if id(child) not in skipped and not isinstance(child, ast.JoinedStr | ast.expr_context | ast.Global):
            yield child


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
