"""Bugs in what is done: a step, a guard or a return that is missing, a loop that is left or not left."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pipeline.bench.operators.registry import FunctionView, operator
from pipeline.bench.source import Edit

_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)


@operator("call-drop", "a step is missing: a call whose result nobody uses")
def call_drop(view: FunctionView) -> Iterator[Edit]:
    """Find calls, awaited ones included, that stand alone."""
    for node in view.nodes(ast.Expr):
        if isinstance(node.value, ast.Call | ast.Await):
            yield view.remove(node)


@operator("assignment-drop", "a step is missing: an attribute or item is not set")
def assignment_drop(view: FunctionView) -> Iterator[Edit]:
    """Find assignments to attributes and items."""
    for node in view.nodes(ast.Assign):
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            yield view.remove(node)


@operator("reassignment-drop", "a step is missing: a variable is not brought up to date")
def reassignment_drop(view: FunctionView) -> Iterator[Edit]:
    """Find assignments of a variable from its own old value, augmented ones included."""
    for node in view.nodes(ast.Assign, ast.AugAssign):
        if isinstance(node, ast.AugAssign):
            yield view.remove(node)
            continue
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if any(isinstance(inner, ast.Name) and inner.id in names for inner in ast.walk(node.value)):
            yield view.remove(node)


@operator("guard-drop", "a special case is not caught: an if that leaves the function or the loop is missing")
def guard_drop(view: FunctionView) -> Iterator[Edit]:
    """Find ifs without else whose one statement leaves."""
    for node in view.nodes(ast.If):
        is_elif = view.source.text.startswith("elif", view.source.span(node)[0])
        if len(node.body) == 1 and isinstance(node.body[0], _LEAVES) and not node.orelse and not is_elif:
            yield view.remove(node)


@operator("branch-drop", "a special case is not handled: an if without else is missing")
def branch_drop(view: FunctionView) -> Iterator[Edit]:
    """Find ifs without else that do something small and go on."""
    for node in view.nodes(ast.If):
        is_elif = view.source.text.startswith("elif", view.source.span(node)[0])
        if len(node.body) <= 2 and not node.orelse and not is_elif and not isinstance(node.body[-1], _LEAVES):
            yield view.remove(node)


@operator("return-drop", "a `return` is missing before what it should return")
def return_drop(view: FunctionView) -> Iterator[Edit]:
    """Find returned calls."""
    for node in view.nodes(ast.Return):
        if isinstance(node.value, ast.Call | ast.Await):
            yield Edit(view.source.span(node)[0], view.source.span(node.value)[0], "")


@operator("return-value", "another value is returned: None, or the parts of a pair exchanged")
def return_value(view: FunctionView) -> Iterator[Edit]:
    """Find returned names and pairs."""
    for node in view.nodes(ast.Return):
        if isinstance(node.value, ast.Name | ast.Attribute):
            yield view.replace(node.value, "None")
        elif isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
            left, right = node.value.elts
            first, second = view.source.span(left), view.source.span(right)
            middle = view.source.text[first[1] : second[0]]
            if middle.strip() == ",":
                yield Edit(first[0], second[1], view.text(right) + middle + view.text(left))


@operator("loop-control", "a loop is left where it should go on, or goes on where it should be left")
def loop_control(view: FunctionView) -> Iterator[Edit]:
    """Find break and continue."""
    for node in view.nodes(ast.Break, ast.Continue):
        yield view.replace(node, "continue" if isinstance(node, ast.Break) else "break")


@operator("handler-swallow", "an exception is caught and then nothing is done")
def handler_swallow(view: FunctionView) -> Iterator[Edit]:
    """Find handlers of one statement that does something."""
    for node in view.nodes(ast.ExceptHandler):
        if len(node.body) == 1 and not isinstance(node.body[0], ast.Pass):
            yield view.replace(node.body[0], "pass")


@operator("yield-from-drop", "an iterator is yielded in place of what it yields")
def yield_from_drop(view: FunctionView) -> Iterator[Edit]:
    """Find yield from."""
    for node in view.nodes(ast.YieldFrom):
        start = view.source.span(node)[0]
        yield Edit(start, view.source.span(node.value)[0], "yield ")
