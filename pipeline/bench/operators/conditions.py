"""Bugs in conditions: what is compared, how conditions are joined, and which branch they lead to."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

from pipeline.bench.operators.registry import FunctionView, operator
from pipeline.bench.source import Edit

_TOKENS: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
_BOUNDARY = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_DIRECTION = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_OPPOSITE = {"==": "!=", "!=": "==", "is": "is not", "is not": "is", "in": "not in", "not in": "in"}


@operator("comparison-boundary", "a bound is let in or left out: < becomes <=")
def comparison_boundary(view: FunctionView) -> Iterator[Edit]:
    """Find orderings."""
    yield from _comparisons(view, _BOUNDARY)


@operator("comparison-direction", "an ordering points the other way: < becomes >")
def comparison_direction(view: FunctionView) -> Iterator[Edit]:
    """Find orderings."""
    yield from _comparisons(view, _DIRECTION)


@operator("comparison-opposite", "equality, identity or membership is turned round: == becomes !=")
def comparison_opposite(view: FunctionView) -> Iterator[Edit]:
    """Find comparisons that are no orderings."""
    yield from _comparisons(view, _OPPOSITE)


@operator("boolean-swap", "conditions are joined by the other word: and becomes or")
def boolean_swap(view: FunctionView) -> Iterator[Edit]:
    """Find the words between the operands."""
    for node in view.nodes(ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in pairwise(node.values):
            yield from view.between(left, right, rf"\b{old}\b", new)


@operator("boolean-operand-drop", "one of two joined conditions was forgotten")
def boolean_operand_drop(view: FunctionView) -> Iterator[Edit]:
    """Find joined conditions; each operand can be the forgotten one."""
    for node in view.nodes(ast.BoolOp):
        if len(node.values) == 2:
            yield view.replace_by(node, node.values[0])
            yield view.replace_by(node, node.values[1])


@operator("condition-negate", "a condition is the wrong way round")
def condition_negate(view: FunctionView) -> Iterator[Edit]:
    """Find conditions of if, while and x if c else y that are neither negated nor a comparison."""
    for node in view.nodes(ast.If, ast.While, ast.IfExp):
        test = node.test
        is_negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if not isinstance(test, ast.Compare | ast.Constant) and not is_negated:
            text = view.text(test)
            is_joined = isinstance(test, ast.BoolOp | ast.IfExp | ast.NamedExpr | ast.Lambda)
            yield view.replace(test, f"not ({text})" if is_joined else f"not {text}")


@operator("not-drop", "a `not` is missing")
def not_drop(view: FunctionView) -> Iterator[Edit]:
    """Find negations."""
    for node in view.nodes(ast.UnaryOp):
        if isinstance(node.op, ast.Not):
            yield view.replace_by(node, node.operand)


@operator("isinstance-narrow", "a type check forgets one of its types")
def isinstance_narrow(view: FunctionView) -> Iterator[Edit]:
    """Find isinstance and issubclass with a tuple of types."""
    for node in view.nodes(ast.Call):
        names_check = isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass")
        if names_check and len(node.args) == 2 and isinstance(node.args[1], ast.Tuple):
            for kept in node.args[1].elts:
                if not isinstance(kept, ast.Starred):
                    yield view.replace(node.args[1], view.text(kept))


@operator("ternary-swap", "the two values of `x if c else y` are exchanged")
def ternary_swap(view: FunctionView) -> Iterator[Edit]:
    """Find conditional expressions whose values are simple."""
    simple = (ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.Subscript, ast.List, ast.Dict)
    for node in view.nodes(ast.IfExp):
        if isinstance(node.body, simple) and isinstance(node.orelse, simple):
            first, second = view.source.span(node.body), view.source.span(node.orelse)
            middle = view.source.text[first[1] : second[0]]
            text = view.text(node.orelse) + middle + view.text(node.body)
            yield Edit(first[0], second[1], text)


@operator(
    "elif-to-if", "an `elif` should have been one: a second branch runs, or an else belongs to the wrong if"
)
def elif_to_if(view: FunctionView) -> Iterator[Edit]:
    """Find elif: the parser makes it an if, but its text begins otherwise."""
    for node in view.nodes(ast.If):
        start, _ = view.source.span(node)
        if view.source.text.startswith("elif", start):
            yield Edit(start, start + len("elif"), "if")


def _comparisons(view: FunctionView, changes: Mapping[str, str]) -> Iterator[Edit]:
    for node in view.nodes(ast.Compare):
        sides = (node.left, *node.comparators)
        for left, kind, right in zip(sides, node.ops, sides[1:], strict=False):
            token = _TOKENS[type(kind)]
            if token in changes:
                words = r"\s+".join(map(re.escape, token.split()))
                pattern = rf"\b{words}\b" if token[0].isalpha() else words
                yield from view.between(left, right, pattern, changes[token])
