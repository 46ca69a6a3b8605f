"""Bugs in sums, indices and bounds: the wrong operator, and one too many or too few."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from pipeline.bench.operators.registry import FunctionView, operator
from pipeline.bench.source import Edit

_SWAPS: Mapping[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "//"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
_NO_NUMBERS = (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple, ast.Dict, ast.Set)


@operator("arithmetic-swap", "the wrong operator: + for -, / for //, & for |")
def arithmetic_swap(view: FunctionView) -> Iterator[Edit]:
    """Find sums of what is not plainly text or a collection."""
    for node in view.nodes(ast.BinOp):
        if type(node.op) in _SWAPS and not _is_text(node.left) and not _is_text(node.right):
            old, new = _SWAPS[type(node.op)]
            yield from view.between(node.left, node.right, re.escape(old), new)


@operator("augmented-swap", "a counter moves the wrong way: += becomes -=")
def augmented_swap(view: FunctionView) -> Iterator[Edit]:
    """Find augmented assignments of what is not plainly text or a collection."""
    for node in view.nodes(ast.AugAssign):
        if type(node.op) in _SWAPS and not _is_text(node.value):
            old, new = _SWAPS[type(node.op)]
            yield from view.between(node.target, node.value, re.escape(old), new)


@operator("augmented-to-assign", "a value replaces what it should have been added to: += becomes =")
def augmented_to_assign(view: FunctionView) -> Iterator[Edit]:
    """Find augmented assignments."""
    for node in view.nodes(ast.AugAssign):
        yield from view.between(node.target, node.value, r"[^\s=()]+=", "=")


@operator("minus-drop", "a minus sign is missing")
def minus_drop(view: FunctionView) -> Iterator[Edit]:
    """Find negative values."""
    for node in view.nodes(ast.UnaryOp):
        if isinstance(node.op, ast.USub):
            yield view.replace_by(node, node.operand)


@operator("number-off-by-one", "a number in an index, a sum or a comparison is one too large or too small")
def number_off_by_one(view: FunctionView) -> Iterator[Edit]:
    """Find small whole numbers where counting is done."""
    for node in view.nodes(ast.Constant):
        if _counts(view, node) and type(node.value) is int:
            yield view.replace(node, str(node.value + 1))
            if node.value > 0:
                yield view.replace(node, str(node.value - 1))


@operator("range-bound", "a range ends one too early or too late")
def range_bound(view: FunctionView) -> Iterator[Edit]:
    """Find ranges whose last number is computed."""
    for node in view.nodes(ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "range" and 1 <= len(node.args) <= 2:
            end = node.args[-1]
            if not isinstance(end, ast.Constant | ast.Starred):
                yield from _one_off(view, end)


@operator("slice-bound", "a slice begins or ends one off, or has lost a bound")
def slice_bound(view: FunctionView) -> Iterator[Edit]:
    """Find computed bounds, and bounds that can be left out."""
    for node in view.nodes(ast.Slice):
        for bound in (node.lower, node.upper):
            if bound is None:
                continue
            if not isinstance(bound, ast.Constant | ast.UnaryOp):
                yield from _one_off(view, bound)
            if node.lower is not None and node.upper is not None:
                yield view.replace(bound, "")


@operator("index-end", "the first is taken for the last: x[0] becomes x[-1]")
def index_end(view: FunctionView) -> Iterator[Edit]:
    """Find x[0] and x[-1]."""
    for node in view.nodes(ast.Subscript):
        if isinstance(node.ctx, ast.Load) and view.text(node.slice) in ("0", "-1"):
            yield view.replace(node.slice, "-1" if view.text(node.slice) == "0" else "0")


def _one_off(view: FunctionView, node: ast.expr) -> Iterator[Edit]:
    text = view.text(node)
    is_loose = isinstance(node, ast.IfExp | ast.BoolOp | ast.Compare | ast.Lambda | ast.NamedExpr)
    if match := re.fullmatch(r"(\w[\w.]*) ([+-]) 1", text):  # the forgotten `- 1` of `range(n - 1)`
        yield view.replace(node, match[1])
    elif not is_loose:
        yield view.replace(node, f"{text} + 1")
        yield view.replace(node, f"{text} - 1")


def _counts(view: FunctionView, node: ast.Constant) -> bool:
    parent = view.parent(node)
    if isinstance(parent, ast.UnaryOp):
        parent = view.parent(parent)
    if isinstance(parent, ast.Call):
        return isinstance(parent.func, ast.Name) and parent.func.id in ("range", "enumerate", "islice")
    if isinstance(parent, ast.BinOp):
        return isinstance(parent.op, ast.Add | ast.Sub)
    return isinstance(parent, ast.Subscript | ast.Slice | ast.Compare)


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _is_text(node.left) or _is_text(node.right)
    is_literal = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    is_string = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str"
    is_joined = (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join"
    )
    return is_literal or is_string or is_joined or isinstance(node, _NO_NUMBERS)
