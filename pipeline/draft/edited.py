"""What a candidate made of each function, read from the syntax trees: what guards look at."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.draft.source import dedent
from pipeline.draft.syntax import PARSE_ERRORS, Function, parse, parts
from pipeline.unwritten import is_unwritten

Literal = tuple[type, object]
_CATCH_ALL = frozenset({"Exception", "BaseException", "AssertionError"})


@dataclass(frozen=True)
class TestTraits:
    """What a candidate could copy from the failing tests."""

    __test__ = False  # not a test class, whatever its name says to pytest

    literals: frozenset[Literal] = frozenset()  # numbers and strings in their source
    module_names: tuple[str, ...] = ()


NO_TRAITS = TestTraits()


@dataclass(frozen=True)
class EditedFunction:
    """One function before and after, and what the candidate put into it."""

    old: Function | None
    new: Function
    tests: TestTraits
    added: list[ast.AST] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "added", _added(self.old, self.new))

    @property
    def is_new(self) -> bool:
        """Whether the function was there, and is written now."""
        return self.old is not None and is_unwritten(ast.unparse(self.old))

    def old_literals(self) -> frozenset[Literal]:
        """Return the literals of the function as it was."""
        return literals_in(self.old) if self.old else frozenset()


def traits_of(test_sources: Iterable[str], module_names: Iterable[str]) -> TestTraits:
    """Return what there is to copy from the sources of the failing tests."""
    found = frozenset[Literal]()
    for source in test_sources:
        try:
            found |= literals_in(parse(dedent(source)))
        except PARSE_ERRORS:
            continue
    return TestTraits(frozenset(literal for literal in found if is_telling(literal)), tuple(module_names))


def edited_functions(
    files: Mapping[str, bytes], base: Callable[[str], bytes], tests: TestTraits
) -> Iterator[EditedFunction]:
    """Yield the functions that the files change or add, and the code outside of all functions."""
    for path, data in files.items():
        if path.endswith(".py"):
            before, after = _functions(base(path)), _functions(data)
            for name, (new, mark) in after.items():
                old, old_mark = before.get(name, (None, ""))
                if mark != old_mark:
                    yield EditedFunction(old, new, tests)


def _functions(data: bytes) -> dict[str, tuple[Function, str]]:
    """Return the functions by name with their dumps, "" being the code outside; none of what is no Python."""
    try:
        return {name: (node, dump) for name, node, dump in parts(data)}
    except PARSE_ERRORS:
        return {}


def _added(old: Function | None, new: Function) -> list[ast.AST]:
    """Return the nodes of the new function that the old one has not, or not as often."""
    left = Counter(ast.dump(node) for node in walked(old))
    found = []
    for node in ast.walk(new):
        mark = ast.dump(node)
        if left[mark]:
            left[mark] -= 1
        else:
            found.append(node)
    return found


def walked(node: ast.AST | None) -> Iterator[ast.AST]:
    """Yield all nodes of what there is."""
    yield from ast.walk(node) if node else ()


def names_in(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names, attributes, imported modules and strings among the nodes."""
    for node in nodes:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                yield name
            case ast.ImportFrom(module=str(name)) | ast.Constant(value=str(name)):
                yield name


def called_name(node: ast.AST) -> str:
    """Return the last part of the name of what is called or raised there."""
    target: ast.AST | None = None
    if isinstance(node, ast.Call):
        target = node.func
    elif isinstance(node, ast.Raise):
        target = node.exc
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def literals_in(node: ast.AST) -> frozenset[Literal]:
    """Return the numbers and strings in the node, with their types: 1, 1.0 and "1" differ."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str | bytes | int | float | complex):
            found.add((type(part.value), part.value))
    return frozenset(found)


def one_of(literals: Collection[Literal]) -> str:
    """Return one of the literals as code, for a reason."""
    return min(repr(value) for _, value in literals)[:60]


def is_telling(literal: Literal) -> bool:
    """Say whether a value is not one that any code may hold: small numbers, one character, nothing."""
    value = literal[1]
    if isinstance(value, bool):
        return False
    return len(value) > 1 if isinstance(value, str | bytes) else value not in (0, 1, 2, 10, 100)


def equalities_in(node: ast.AST) -> frozenset[Literal]:
    """Return the literals that something is compared with for being equal."""
    found: set[Literal] = set()
    for part in ast.walk(node):
        match part:
            case ast.Compare(left=left, ops=ops, comparators=others):
                if any(isinstance(op, ast.Eq | ast.In | ast.Is) for op in ops):
                    for side in (left, *others):
                        found |= literals_in(side) if is_literal(side) else frozenset()
            case ast.MatchValue(value=value):
                found |= literals_in(value)
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith"), args=[first, *_]):
                found |= literals_in(first) if is_literal(first) else frozenset()
    return frozenset(found)


def num_compared(test: ast.AST) -> int:
    """Return how many things are asked to be equal to a constant, all at once."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return sum(num_compared(part) for part in test.values)
    match test:
        case ast.Compare(left=ast.Tuple(elts=parts), ops=[ast.Eq()], comparators=[other]):
            return len(parts) if is_literal(other) else 0
        case ast.Compare(ops=[ast.Eq()], comparators=[other]):
            return int(is_literal(other))
    return 0


def branches_in(nodes: Collection[ast.AST]) -> Iterator[tuple[ast.AST, list[ast.expr]]]:
    """Yield what is asked and what is answered then, for every new branch."""
    for node in nodes:
        match node:
            case ast.If(test=test, body=body):
                yield test, _given(body)
            case ast.IfExp(test=test, body=answer):
                yield test, [answer]
            case ast.match_case(pattern=pattern, body=body):
                yield pattern, _given(body)


def _given(body: Iterable[ast.stmt]) -> list[ast.expr]:
    """Return what these statements return, or put into a name, when they do nothing else."""
    return [
        statement.value
        for statement in body
        if isinstance(statement, ast.Return | ast.Assign) and statement.value is not None
    ]


def answers_of(function: Function) -> list[ast.expr]:
    """Return the expressions that the function returns or yields, those of nested functions left out."""
    found: list[ast.expr] = []
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
            found.append(node.value)
        waiting += ast.iter_child_nodes(node)
    return found


def is_literal(node: ast.expr) -> bool:
    """Say whether the expression is made of literals alone."""
    made_of = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.unaryop, ast.Load)
    return all(isinstance(part, made_of) for part in ast.walk(node))


def handlers_of_everything(nodes: Iterable[ast.AST]) -> Iterator[ast.ExceptHandler]:
    """Yield the exception handlers that let next to nothing pass."""
    for node in nodes:
        if isinstance(node, ast.ExceptHandler):
            names = {part.id for part in walked(node.type) if isinstance(part, ast.Name)}
            if node.type is None or names & _CATCH_ALL:
                yield node


def does_nothing(statement: ast.stmt) -> bool:
    """Say whether the statement is pass, continue, `...` or a string."""
    return isinstance(statement, ast.Pass | ast.Continue) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


class _Unchecked(ast.NodeTransformer):
    """Takes the assertions out; what they leave empty stays so, since it is only compared."""

    def visit_Assert(self, _: ast.Assert) -> None:
        return None

    def visit_Pass(self, _: ast.Pass) -> None:
        return None


def num_checks(function: Function) -> int:
    """Return how many assertions the function has."""
    return sum(isinstance(node, ast.Assert) for node in ast.walk(function))


def without_checks(function: Function) -> str:
    """Return the function's syntax tree without its assertions, to be compared."""
    return ast.dump(_Unchecked().visit(copy.deepcopy(function)))
