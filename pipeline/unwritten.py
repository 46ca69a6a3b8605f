"""Definitions that are not written yet: a body that says so, or that says nothing."""

from __future__ import annotations

import ast
import re
import warnings

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_TODO = re.compile(r"#.*\b(TODO|FIXME)\b")
_SAYS_SO = re.compile(r"\b(TODO|FIXME|NotImplementedError)\b")
_MEANT_EMPTY = frozenset(
    {"abstractmethod", "abstractproperty", "abstractclassmethod", "abstractstaticmethod", "overload"}
)
_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)


def is_unwritten(text: str) -> bool:
    """Say whether a definition's body is pass, `...`, a docstring, NotImplementedError, or a TODO.

    A class with an empty body is complete, unless a TODO stands there; an abstract method is, too.
    """
    return says_unwritten(text) or _is_empty(_definition(text))


def says_unwritten(text: str) -> bool:
    """Say whether a definition itself tells that it is not written: NotImplementedError, or a TODO."""
    node = _definition(text) if _SAYS_SO.search(text) else None  # most text need not be parsed
    if node is None or _is_meant_empty(node):
        return False
    body = _body(node)
    if _TODO.search(text) and all(_says_nothing(s) or _returns_nothing(s) or _raises_it(s) for s in body):
        return True
    return any(map(_raises_it, body)) and all(_raises_it(s) or _says_nothing(s) for s in body)


def has_open_signature(text: str) -> bool:
    """Say whether an unwritten function takes anything, so that whoever writes it decides what it takes."""
    node = _definition(text)
    if isinstance(node, ast.ClassDef) or node is None or not is_unwritten(text):
        return False
    return node.args.vararg is not None and node.args.kwarg is not None


def _definition(text: str) -> Definition | None:
    """Return the definition that the text is, at whatever indentation it stands."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(f"if 1:\n{text}" if text[:1].isspace() else text).body
    except _PARSE_ERRORS:
        return None
    first = body[0].body[0] if body and isinstance(body[0], ast.If) else body[0] if body else None
    return first if isinstance(first, Definition) else None


def _is_empty(node: Definition | None) -> bool:
    if node is None or isinstance(node, ast.ClassDef) or _is_meant_empty(node):
        return False
    return all(map(_says_nothing, node.body))


def _is_meant_empty(node: Definition) -> bool:
    names = (part for decorator in node.decorator_list for part in ast.walk(decorator))
    return any(getattr(part, "attr", getattr(part, "id", "")) in _MEANT_EMPTY for part in names)


def _body(node: Definition) -> list[ast.stmt]:
    has_docstring = ast.get_docstring(node, clean=False) is not None
    return node.body[1:] if has_docstring else node.body


def _says_nothing(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass) or is_constant


def _returns_nothing(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Return):
        return False
    return statement.value is None or (
        isinstance(statement.value, ast.Constant) and statement.value.value is None
    )


def _raises_it(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Raise):
        return False
    raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
