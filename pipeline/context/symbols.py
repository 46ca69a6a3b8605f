"""Definitions and names of a Python source, by tree-sitter: a file with a syntax error still has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import tree_sitter
import tree_sitter_python

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What an operator calls, by the node's type; which of them it is need not be known to find a suspect.
_OPERATOR_METHODS = {
    "subscript": ("__getitem__",),
    "binary_operator": ("__add__", "__sub__", "__mul__", "__truediv__", "__mod__", "__and__", "__or__"),
    "comparison_operator": ("__eq__", "__lt__", "__contains__"),
}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function or class. Lines count from 1, both ends included, decorators in."""

    path: str
    qualname: str
    kind: Literal["function", "class"]
    start_line: int
    end_line: int
    def_line: int  # of the `def` or `class` keyword
    body_line: int  # where the body begins
    doc_end_line: int = 0  # the last line of its docstring; 0 where it has none

    @property
    def name(self) -> str:
        """The last part of the qualified name."""
        return self.qualname.rpartition(".")[2]

    @property
    def parent(self) -> str:
        """The qualified name of the enclosing class; "" at module level."""
        return self.qualname.rpartition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A module-level import or assignment, and the names that it binds."""

    kind: Literal["import", "assignment"]
    names: frozenset[str]
    start_line: int
    end_line: int


def definitions(path: str, source: bytes) -> tuple[Definition, ...]:
    """Return functions, methods and classes; a function nested in a function belongs to it."""
    return tuple(_definitions(path, _parse(source), ()))


def module_statements(source: bytes) -> tuple[Statement, ...]:
    """Return the imports and assignments that stand at module level, in order."""
    found = []
    for node in _parse(source).children:
        inner = node.children[0] if node.type == "expression_statement" and node.children else node
        if node.type in ("import_statement", "import_from_statement", "future_import_statement"):
            found.append(_statement("import", node))
        elif inner.type == "assignment":
            found.append(_statement("assignment", inner))
    return tuple(found)


def identifiers(text: str) -> frozenset[str]:
    """Return every identifier in a text, strings and comments included."""
    return frozenset(_IDENTIFIER.findall(text))


def called_names(source: bytes) -> frozenset[str]:
    """Return the names that a source calls: `f` for f(), `method` for x.method(), `__getitem__` for x[0]."""
    return frozenset(_called(_parse(source)))


def source_lines(source: bytes) -> list[str]:
    """Return a source's lines as tree-sitter counts them: a form feed or U+2028 does not end one."""
    return source.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")


def words(text: str) -> list[str]:
    """Split identifiers at underscores and capitals: the terms that BM25 compares."""
    return [word.lower() for word in _WORD.findall(text)]


@cache
def _parser() -> tree_sitter.Parser:
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_python.language()))


def _parse(source: bytes) -> tree_sitter.Node:
    return _parser().parse(source).root_node


def _definitions(path: str, node: tree_sitter.Node, scope: tuple[str, ...]) -> Iterator[Definition]:
    for child in node.children:
        if child.type in ("function_definition", "class_definition"):
            yield from _definition(path, child, scope)
        elif child.type not in ("expression_statement", "import_statement", "import_from_statement"):
            yield from _definitions(path, child, scope)  # below decorators, if, try, with, ERROR


def _definition(path: str, node: tree_sitter.Node, scope: tuple[str, ...]) -> Iterator[Definition]:
    name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
    if name is None or body is None or name.text is None:
        return  # the wreck of a definition in a file that does not parse
    qualname = (*scope, name.text.decode("utf-8", "replace"))
    decorated = node.parent is not None and node.parent.type == "decorated_definition"
    outer = node.parent if decorated and node.parent is not None else node
    is_class = node.type == "class_definition"
    yield Definition(
        path=path,
        qualname=".".join(qualname),
        kind="class" if is_class else "function",
        start_line=outer.start_point[0] + 1,
        end_line=outer.end_point[0] + 1,
        def_line=node.start_point[0] + 1,
        body_line=body.start_point[0] + 1,
        doc_end_line=_doc_end_line(body),
    )
    if is_class:
        yield from _definitions(path, body, qualname)


def _doc_end_line(body: tree_sitter.Node) -> int:
    first = body.named_children[0] if body.named_children else None
    is_string = first is not None and [child.type for child in first.children] == ["string"]
    return first.end_point[0] + 1 if first is not None and is_string else 0


def _statement(kind: Literal["import", "assignment"], node: tree_sitter.Node) -> Statement:
    left = node.child_by_field_name("left")
    bound = node if kind == "import" else (left or node)
    text = (bound.text or b"").decode("utf-8", "replace")
    return Statement(
        kind=kind,
        names=identifiers(text),
        start_line=node.start_point[0] + 1,
        end_line=node.end_point[0] + 1,
    )


def _called(node: tree_sitter.Node) -> Iterator[str]:
    stack = [node]  # not recursive: an expression may nest deeper than Python's stack
    while stack:
        current = stack.pop()
        stack.extend(current.children)
        yield from _OPERATOR_METHODS.get(current.type, ())
        function = current.child_by_field_name("function") if current.type == "call" else None
        if function is not None:
            named = function.child_by_field_name("attribute") or function
            if named.type == "identifier" and named.text is not None:
                yield named.text.decode("utf-8", "replace")
