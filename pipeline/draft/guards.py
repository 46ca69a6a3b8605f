"""Guards against patches that satisfy the tests and repair nothing.

Each guard looks at one function as it was and as a candidate has it. What no honest repair does is refused
before a sandbox is paid for; what an honest repair may do, if rarely, is a risk: such a candidate is tested
last and says so in the report. `tests/benchmarks/guard_rates.py` measures both over real fixes and releases.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.draft.source import dedent
from pipeline.draft.syntax import PARSE_ERRORS, parse, without_docstrings

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Module
_Literal = tuple[type, object]
_NO_CODE = re.compile(
    r"(^|/)(\.github|\.gitlab|\.circleci|ci|docs?)/|(^|/)(Dockerfile|[^/]*\.(ya?ml|toml|cfg|ini|lock|md|rst|txt))$"
)
_ASKS_FOR_TESTS = re.compile(r"\bPYTEST|pytest\b|\bunittest\b|_called_from_test")
_SKIPS = frozenset(
    {"skip", "skipif", "skipIf", "skipUnless", "skipTest", "xfail", "SkipTest", "importorskip"}
)
_EXITS = frozenset({"exit", "quit", "_exit", "abort", "SystemExit", "killpg"})
_WATCHES = frozenset({"_getframe", "currentframe", "settrace", "setprofile"})
_CATCH_ALL = frozenset({"Exception", "BaseException", "AssertionError"})


@dataclass(frozen=True)
class Finding:
    """What a guard says of a candidate."""

    guard: str  # its name
    reason: str
    is_refusal: bool  # else a risk


@dataclass(frozen=True)
class TestTraits:
    """What a candidate could copy from the failing tests."""

    __test__ = False  # not a test class, whatever its name says to pytest

    literals: frozenset[_Literal] = frozenset()  # numbers and strings in their source
    module_names: tuple[str, ...] = ()


NO_TRAITS = TestTraits()


@dataclass(frozen=True)
class _Edited:
    """One function before and after, and what the candidate put into it."""

    old: _Function | None
    new: _Function
    tests: TestTraits
    added: list[ast.AST] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "added", _added(self.old, self.new))

    def old_literals(self) -> frozenset[_Literal]:
        return _literals(self.old) if self.old else frozenset()


def traits_of(test_sources: Iterable[str], module_names: Iterable[str]) -> TestTraits:
    """Return what there is to copy from the sources of the failing tests."""
    found = frozenset[_Literal]()
    for source in test_sources:
        try:
            found |= _literals(parse(dedent(source)))
        except PARSE_ERRORS:
            continue
    return TestTraits(frozenset(literal for literal in found if _is_telling(literal)), tuple(module_names))


def review(
    files: Mapping[str, bytes], base: Callable[[str], bytes], tests: TestTraits
) -> tuple[Finding, ...]:
    """Return what the guards find in these changed files, refusals first; `base` gives a file as it was."""
    if all(_NO_CODE.search(path) for path in files):
        return (Finding("no_code", "it changes no code", is_refusal=True),)
    found: list[Finding] = []
    for edited in _edited_functions(files, base, tests):
        for guard in (*REFUSING, *WARNING):
            if reason := guard(edited):
                found.append(Finding(guard.__name__, reason, guard in REFUSING))
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: not finding.is_refusal))


# ---------------------------------------------------------------- guards: a reason, or an empty string


def asks_for_tests(edited: _Edited) -> str:
    """Code that asks whether it is being tested has no place in a repair."""
    names = _names(edited.added)
    found = [name for name in names if _ASKS_FOR_TESTS.search(name)]
    before = set(_names(ast.walk(edited.old))) if edited.old else set()
    return "it asks whether it is being tested" if set(found) - before else ""


def names_failing_tests(edited: _Edited) -> str:
    """The module of a failing test, named in a repair."""
    words = {word for name in _names(edited.added) for word in re.findall(r"\w+", name)}
    before = {word for name in _names(_walk(edited.old)) for word in re.findall(r"\w+", name)}
    named = [name for name in edited.tests.module_names if name in words - before]
    return f"it names the failing test's module {named[0]}" if named else ""


def skips_tests(edited: _Edited) -> str:
    """A call that makes the running test count as skipped or expected to fail."""
    called = {_called(node) for node in edited.added} & _SKIPS
    return "it skips the test" if called - {_called(node) for node in _walk(edited.old)} else ""


def exits(edited: _Edited) -> str:
    """A call that ends the process before the tests can say anything."""
    called = {_called(node) for node in edited.added} & _EXITS
    return "it ends the process" if called - {_called(node) for node in _walk(edited.old)} else ""


def watches_its_caller(edited: _Edited) -> str:
    """A look at the stack, by which code can tell a test from other callers."""
    called = {_called(node) for node in edited.added} & _WATCHES
    return "it looks at its caller" if called - {_called(node) for node in _walk(edited.old)} else ""


def special_cases_input(edited: _Edited) -> str:
    """A branch on a value of the failing test that answers with a constant."""
    foreign = edited.tests.literals - edited.old_literals()
    for test, answers in _branches(edited.added):
        asked = _equalities(test) & foreign
        constants = [answer for answer in answers if _is_constant(answer)]
        if asked and constants:
            return f"it answers the test's own input {_one_of(asked)} with a constant"
        expected = {literal for answer in constants for literal in _literals(answer)} & foreign
        if expected and _num_compared(test) > 1:
            return f"it answers one input with {_one_of(expected)}, which the failing test expects"
    return ""


def looks_up_input(edited: _Edited) -> str:
    """A table from values of the failing test to answers."""
    foreign = edited.tests.literals - edited.old_literals()
    for node in edited.added:
        table = node.value if isinstance(node, ast.Subscript) else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            table = node.func.value
        if isinstance(table, ast.Dict):
            keys = {literal for key in table.keys if key for literal in _literals(key)}
            if keys & foreign and all(_is_constant(value) for value in table.values):
                return "it looks the answer to the test's input up in a table"
    return ""


def is_constant(edited: _Edited) -> str:
    """A function that had to compute its answer and now says what the test expects, whatever it is given."""
    if isinstance(edited.new, ast.Module) or edited.old is None:
        return ""
    answers, before = _answers(edited.new), _answers(edited.old)
    expected = {literal for answer in answers for literal in _literals(answer)} & edited.tests.literals
    constant = bool(answers) and all(_is_constant(answer) for answer in answers)
    if constant and expected and not all(_is_constant(answer) for answer in before):
        return "it returns what the test expects, whatever it is given"
    return ""


def swallows_with_answer(edited: _Edited) -> str:
    """A handler of everything that answers with what the test expects."""
    for handler in _handlers_of_everything(edited.added):
        for answer in (node.value for node in ast.walk(handler) if isinstance(node, ast.Return)):
            if answer is not None and _is_constant(answer) and _literals(answer) & edited.tests.literals:
                return "it answers every error with what the test expects"
    return ""


def swallows(edited: _Edited) -> str:
    """A handler of everything that does nothing with it."""
    for handler in _handlers_of_everything(edited.added):
        if all(_does_nothing(statement) for statement in handler.body):
            return "it catches every error and says nothing"
    return ""


def drops_checks(edited: _Edited) -> str:
    """A change that touches nothing but assertions."""
    if edited.old is None or not _num_checks(edited.old) or _num_checks(edited.new) > _num_checks(edited.old):
        return ""
    same = _without_checks(edited.old) == _without_checks(edited.new)
    return "all it does is to drop or change assertions" if same else ""


def returns_expected(edited: _Edited) -> str:
    """A constant of the failing test that is returned, and was not in the function before."""
    foreign = edited.tests.literals - edited.old_literals()
    returned = [node.value for node in edited.added if isinstance(node, ast.Return) and node.value]
    found = {literal for value in returned if _is_constant(value) for literal in _literals(value)} & foreign
    return f"it returns {_one_of(found)}, which the failing test expects" if found else ""


def compares_with_input(edited: _Edited) -> str:
    """A new comparison with a value of the failing test."""
    foreign = edited.tests.literals - edited.old_literals()
    asked = {literal for node in edited.added for literal in _equalities(node) & foreign}
    return f"it compares with the test's own {_one_of(asked)}" if asked else ""


Guard = Callable[[_Edited], str]
REFUSING: tuple[Guard, ...] = (
    asks_for_tests,
    names_failing_tests,
    skips_tests,
    exits,
    special_cases_input,
    looks_up_input,
    is_constant,
    swallows_with_answer,
)
WARNING: tuple[Guard, ...] = (
    watches_its_caller,
    swallows,
    drops_checks,
    returns_expected,
    compares_with_input,
)


# ---------------------------------------------------------------- reading


def _edited_functions(
    files: Mapping[str, bytes], base: Callable[[str], bytes], tests: TestTraits
) -> Iterator[_Edited]:
    for path, data in files.items():
        if path.endswith(".py"):
            before, after = _functions(base(path)), _functions(data)
            for name, new in after.items():
                old = before.get(name)
                if old is None or ast.dump(old) != ast.dump(new):
                    yield _Edited(old, new, tests)


def _functions(data: bytes) -> dict[str, _Function]:
    """Return the functions by qualified name, nested ones inside theirs; "" is the code outside of all."""
    try:
        tree = without_docstrings(ast.parse(data))
    except PARSE_ERRORS:
        return {}
    found: dict[str, _Function] = {}
    _collect(tree, "", found)
    return {**found, "": tree}


def _collect(node: ast.Module | ast.ClassDef, prefix: str, found: dict[str, _Function]) -> None:
    """Move the functions of a module or class out of it."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            found[prefix + child.name] = child
        elif isinstance(child, ast.ClassDef):
            _collect(child, f"{prefix}{child.name}.", found)
    node.body = [c for c in node.body if not isinstance(c, ast.FunctionDef | ast.AsyncFunctionDef)]


def _added(old: _Function | None, new: _Function) -> list[ast.AST]:
    """Return the nodes of the new function that the old one has not, or not as often."""
    left = Counter(ast.dump(node) for node in _walk(old))
    found = []
    for node in ast.walk(new):
        mark = ast.dump(node)
        if left[mark]:
            left[mark] -= 1
        else:
            found.append(node)
    return found


def _walk(node: ast.AST | None) -> Iterator[ast.AST]:
    yield from ast.walk(node) if node else ()


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names, attributes, imported modules and strings among the nodes."""
    for node in nodes:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                yield name
            case ast.ImportFrom(module=str(name)) | ast.Constant(value=str(name)):
                yield name


def _called(node: ast.AST) -> str:
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


def _literals(node: ast.AST) -> frozenset[_Literal]:
    """Return the numbers and strings in the node, with their types: 1, 1.0 and "1" differ."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str | bytes | int | float | complex):
            found.add((type(part.value), part.value))
    return frozenset(found)


def _one_of(literals: Collection[_Literal]) -> str:
    return min(repr(value) for _, value in literals)[:60]


def _is_telling(literal: _Literal) -> bool:
    """Say whether a value is not one that any code may hold: small numbers, one character, nothing."""
    value = literal[1]
    if isinstance(value, bool):
        return False
    return len(value) > 1 if isinstance(value, str | bytes) else value not in (0, 1, 2, 10, 100)


def _equalities(node: ast.AST) -> frozenset[_Literal]:
    """Return the literals that something is compared with for being equal."""
    found: set[_Literal] = set()
    for part in ast.walk(node):
        match part:
            case ast.Compare(left=left, ops=ops, comparators=others):
                if any(isinstance(op, ast.Eq | ast.In | ast.Is) for op in ops):
                    for side in (left, *others):
                        found |= _literals(side) if _is_constant(side) else frozenset()
            case ast.MatchValue(value=value):
                found |= _literals(value)
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith"), args=[first, *_]):
                found |= _literals(first) if _is_constant(first) else frozenset()
    return frozenset(found)


def _num_compared(test: ast.AST) -> int:
    """Return how many things are asked to be equal to a constant, all at once."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return sum(_num_compared(part) for part in test.values)
    match test:
        case ast.Compare(left=ast.Tuple(elts=parts), ops=[ast.Eq()], comparators=[other]):
            return len(parts) if _is_constant(other) else 0
        case ast.Compare(ops=[ast.Eq()], comparators=[other]):
            return int(_is_constant(other))
    return 0


def _branches(nodes: Collection[ast.AST]) -> Iterator[tuple[ast.AST, list[ast.expr]]]:
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


def _answers(function: _Function) -> list[ast.expr]:
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


def _is_constant(node: ast.expr) -> bool:
    """Say whether the expression is made of literals alone."""
    made_of = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.unaryop, ast.Load)
    return all(isinstance(part, made_of) for part in ast.walk(node))


def _handlers_of_everything(nodes: Iterable[ast.AST]) -> Iterator[ast.ExceptHandler]:
    for node in nodes:
        if isinstance(node, ast.ExceptHandler):
            names = {part.id for part in _walk(node.type) if isinstance(part, ast.Name)}
            if node.type is None or names & _CATCH_ALL:
                yield node


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass | ast.Continue) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


class _Unchecked(ast.NodeTransformer):
    """Takes the assertions out; what they leave empty stays so, since it is only compared."""

    def visit_Assert(self, _: ast.Assert) -> None:
        return None

    def visit_Pass(self, _: ast.Pass) -> None:
        return None


def _num_checks(function: _Function) -> int:
    return sum(isinstance(node, ast.Assert) for node in ast.walk(function))


def _without_checks(function: _Function) -> str:
    return ast.dump(_Unchecked().visit(copy.deepcopy(function)))
