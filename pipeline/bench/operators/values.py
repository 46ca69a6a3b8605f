"""Bugs in what is named: the wrong constant, variable, attribute, default or exception."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from pipeline.bench.operators.registry import FunctionNode, FunctionView, operator
from pipeline.bench.source import Edit

_EXCEPTIONS = {
    "AttributeError": "TypeError",
    "IndexError": "KeyError",
    "KeyError": "IndexError",
    "LookupError": "KeyError",
    "OSError": "ValueError",
    "FileNotFoundError": "ValueError",
    "StopIteration": "IndexError",
    "TypeError": "ValueError",
    "UnicodeDecodeError": "UnicodeEncodeError",
    "UnicodeEncodeError": "UnicodeDecodeError",
    "ValueError": "TypeError",
    "ZeroDivisionError": "ValueError",
    "Exception": "ValueError",
    "NotImplementedError": "TypeError",
    "RuntimeError": "ValueError",
}
_SCOPES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)


@operator("constant-wrong", "the wrong constant: True for False, 0 for 1, None for an empty string")
def constant_wrong(view: FunctionView) -> Iterator[Edit]:
    """Find truth values, 0, 1 and empty strings that no other operator counts with."""
    for node in view.nodes(ast.Constant):
        if isinstance(view.parent(node), ast.Expr | ast.Subscript | ast.Slice):
            continue
        if (text := _other_constant(node)) is not None and not _is_default(view, node):
            yield view.replace(node, text)


@operator("empty-collection-none", "None is given where an empty collection was")
def empty_collection_none(view: FunctionView) -> Iterator[Edit]:
    """Find [] and {}, and calls of list, dict and set without arguments."""
    for node in view.nodes(ast.List, ast.Dict, ast.Call):
        if isinstance(getattr(node, "ctx", ast.Load()), ast.Load) and view.text(node) in (
            "[]",
            "{}",
            "list()",
            "dict()",
            "set()",
            "()",
        ):
            yield view.replace(node, "None")


@operator("default-parameter", "a parameter's default is another value")
def default_parameter(view: FunctionView) -> Iterator[Edit]:
    """Find defaults of the function itself that are truth values, numbers or short texts."""
    arguments = view.node.args
    for node in (*arguments.defaults, *filter(None, arguments.kw_defaults)):
        if not isinstance(node, ast.Constant):
            continue
        if type(node.value) is int:
            yield view.replace(node, str(node.value + 1))
        elif node.value is None:
            yield view.replace(node, "False")
        elif (text := _other_constant(node)) is not None:
            yield view.replace(node, text)
        elif isinstance(node.value, str):
            yield view.replace(node, "''")


@operator("variable-wrong", "another variable of the same function is used")
def variable_wrong(view: FunctionView) -> Iterator[Edit]:
    """Find reads of parameters and locals; the two others with the likest names can be meant instead."""
    bound = _bound_names(view)
    for node in view.nodes(ast.Name):
        if not isinstance(node.ctx, ast.Load) or node.id not in bound or _is_called(view, node):
            continue
        others = [name for name, line in bound.items() if name != node.id and line < node.lineno]
        for name in _likest(node.id, others, 2):
            yield view.replace(node, name)


@operator("attribute-wrong", "another attribute of the same object is read")
def attribute_wrong(view: FunctionView) -> Iterator[Edit]:
    """Find reads of attributes that the class sets; the one with the likest name can be meant instead."""
    if view.owner is None or not view.node.args.args:
        return
    own = _attributes(view.owner)
    for node in view.nodes(ast.Attribute):
        is_own = isinstance(node.value, ast.Name) and node.value.id == view.node.args.args[0].arg
        if is_own and isinstance(node.ctx, ast.Load) and node.attr in own and not _is_called(view, node):
            end = view.source.span(node)[1]
            for name in _likest(node.attr, [name for name in own if name != node.attr], 1):
                yield Edit(end - len(node.attr), end, name)


@operator("exception-type", "another exception is raised or caught")
def exception_type(view: FunctionView) -> Iterator[Edit]:
    """Find built-in exceptions in raise and except."""
    for node in view.nodes(ast.Raise, ast.ExceptHandler):
        named = node.exc if isinstance(node, ast.Raise) else node.type
        if isinstance(named, ast.Call):
            named = named.func
        if isinstance(named, ast.Name) and named.id in _EXCEPTIONS:
            yield view.replace(named, _EXCEPTIONS[named.id])


@operator("exception-narrow", "one of several exceptions is not caught")
def exception_narrow(view: FunctionView) -> Iterator[Edit]:
    """Find handlers of a tuple of exceptions."""
    for node in view.nodes(ast.ExceptHandler):
        if isinstance(node.type, ast.Tuple):
            for kept in node.type.elts:
                yield view.replace(node.type, view.text(kept))


def _other_constant(node: ast.Constant) -> str | None:
    if isinstance(node.value, bool):
        return str(not node.value)
    if type(node.value) is int and node.value in (0, 1):
        return str(1 - node.value)
    return "None" if node.value == "" else None


def _is_default(view: FunctionView, node: ast.AST) -> bool:
    return isinstance(view.parent(node), ast.arguments)


def _is_called(view: FunctionView, node: ast.AST) -> bool:
    parent = view.parent(node)
    return isinstance(parent, ast.Call) and parent.func is node


def _bound_names(view: FunctionView) -> dict[str, int]:
    """Return parameters and locals with the line after which they are bound; none of inner scopes."""
    arguments = view.node.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    bound = {argument.arg: 0 for argument in parameters if argument.arg not in ("self", "cls", "mcs")}
    for node in view.nodes(ast.Name):
        if isinstance(node.ctx, ast.Store) and not _is_inner(view, node):
            bound.setdefault(node.id, node.lineno)
    return bound


def _is_inner(view: FunctionView, node: ast.AST) -> bool:
    while node is not view.node:
        node = view.parent(node)
        if isinstance(node, _SCOPES) and node is not view.node:
            return True
    return False


def _attributes(owner: ast.ClassDef) -> list[str]:
    """Return the attributes that a class's methods set on their first parameter, in order of the text."""
    found: dict[str, None] = {}
    for method in owner.body:
        if isinstance(method, FunctionNode) and method.args.args:
            first = method.args.args[0].arg
            for node in ast.walk(method):
                if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
                    continue
                if isinstance(node.value, ast.Name) and node.value.id == first:
                    found[node.attr] = None
    return list(found)


def _likest(name: str, others: Sequence[str], num: int) -> list[str]:
    return sorted(others, key=lambda other: (-SequenceMatcher(None, name, other).ratio(), other))[:num]
