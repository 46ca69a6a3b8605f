"""Bugs in calls: arguments in the wrong order or forgotten, a sibling method, a step that was left out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from pipeline.bench.operators.registry import FunctionView, operator
from pipeline.bench.source import Edit

_METHODS = {
    "append": "extend",
    "extend": "append",
    "appendleft": "append",
    "startswith": "endswith",
    "endswith": "startswith",
    "find": "rfind",
    "rfind": "find",
    "index": "rindex",
    "split": "rsplit",
    "rsplit": "split",
    "partition": "rpartition",
    "rpartition": "partition",
    "strip": "lstrip",
    "lstrip": "rstrip",
    "rstrip": "strip",
    "upper": "lower",
    "lower": "upper",
    "title": "capitalize",
    "ljust": "rjust",
    "rjust": "ljust",
    "keys": "values",
    "values": "keys",
    "items": "values",
    "union": "intersection",
    "intersection": "union",
    "issubset": "issuperset",
    "issuperset": "issubset",
    "popleft": "pop",
    "match": "search",
    "search": "match",
    "fullmatch": "match",
    "isdigit": "isalpha",
    "isalpha": "isalnum",
    "floor": "ceil",
    "ceil": "floor",
    "setdefault": "get",
}
_FUNCTIONS = {
    "any": "all",
    "all": "any",
    "min": "max",
    "max": "min",
    "sorted": "list",
    "reversed": "list",
    "set": "list",
    "abs": "int",
    "round": "int",
    "repr": "str",
    "floor": "ceil",
    "ceil": "floor",
}
_COPIES = frozenset(("list", "dict", "set", "tuple", "copy", "deepcopy"))
_NORMALISERS = frozenset(("strip", "lstrip", "rstrip", "lower", "upper", "casefold", "copy"))


@operator("method-sibling", "a method or function of the same kind is called: append for extend, any for all")
def method_sibling(view: FunctionView) -> Iterator[Edit]:
    """Find calls of methods and built-in functions that are often confused."""
    for node in view.nodes(ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            end = view.source.span(node.func)[1]
            yield Edit(end - len(node.func.attr), end, _METHODS[node.func.attr])
        elif isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            yield view.replace(node.func, _FUNCTIONS[node.func.id])


@operator("arguments-swap", "two neighbouring arguments are exchanged")
def arguments_swap(view: FunctionView) -> Iterator[Edit]:
    """Find neighbouring positional arguments that differ."""
    for node in view.nodes(ast.Call):
        for left, right in pairwise(node.args):
            if isinstance(left, ast.Starred) or isinstance(right, ast.Starred | ast.GeneratorExp):
                continue
            first, second = view.source.span(left), view.source.span(right)
            middle = view.source.text[first[1] : second[0]]
            if middle.strip() == "," and view.text(left) != view.text(right):
                yield Edit(first[0], second[1], view.text(right) + middle + view.text(left))


@operator("keyword-drop", "a keyword argument is not passed on")
def keyword_drop(view: FunctionView) -> Iterator[Edit]:
    """Find keyword arguments that follow another argument."""
    for node in view.nodes(ast.Call):
        arguments: list[ast.AST] = sorted([*node.args, *node.keywords], key=lambda a: view.source.span(a)[0])
        for before, argument in pairwise(arguments):
            if isinstance(argument, ast.keyword) and argument.arg is not None:
                gap = view.source.text[view.source.span(before)[1] : view.source.span(argument)[0]]
                if gap.strip() == ",":
                    yield Edit(view.source.span(before)[1], view.source.span(argument)[1], "")


@operator("copy-drop", "what should be a copy is the thing itself")
def copy_drop(view: FunctionView) -> Iterator[Edit]:
    """Find list(x), dict(x), copy(x) and the like."""
    for node in view.nodes(ast.Call):
        if len(node.args) != 1 or node.keywords or not isinstance(node.args[0], ast.Name | ast.Attribute):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in _COPIES:
            yield view.replace_by(node, node.args[0])


@operator("normalise-drop", "a text is not stripped or lowered, or a copy not taken: x.strip() becomes x")
def normalise_drop(view: FunctionView) -> Iterator[Edit]:
    """Find such calls without arguments."""
    for node in view.nodes(ast.Call):
        is_bare = not node.args and not node.keywords and not isinstance(view.parent(node), ast.Expr)
        if is_bare and isinstance(node.func, ast.Attribute) and node.func.attr in _NORMALISERS:
            yield view.replace_by(node, node.func.value)


@operator("await-drop", "an `await` is missing")
def await_drop(view: FunctionView) -> Iterator[Edit]:
    """Find awaits."""
    for node in view.nodes(ast.Await):
        yield view.replace_by(node, node.value)


@operator("get-default", "the default of a look-up is forgotten, or a missing key is not expected")
def get_default(view: FunctionView) -> Iterator[Edit]:
    """Find x.get(key, default), x.pop(key, default) and x.get(key)."""
    for node in view.nodes(ast.Call):
        if not isinstance(node.func, ast.Attribute) or node.keywords:
            continue
        if node.func.attr in ("get", "pop") and len(node.args) == 2:
            yield Edit(view.source.span(node.args[0])[1], view.source.span(node.args[1])[1], "")
        elif node.func.attr == "get" and len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
            yield view.replace(node, f"{view.text(node.func.value)}[{view.text(node.args[0])}]")
