"""The mutation operators: each a kind of bug that people make, found in a function's syntax tree."""

from pipeline.bench.operators import arithmetic, calls, conditions, statements, values  # noqa: F401 - they register
from pipeline.bench.operators.registry import OPERATORS, FunctionNode, FunctionView, Operator

__all__ = ["OPERATORS", "FunctionNode", "FunctionView", "Operator"]
