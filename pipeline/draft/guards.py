"""Guards against patches that satisfy the tests and repair nothing.

Each guard looks at one function as it was and as a candidate has it. What no honest repair does is refused
before a sandbox is paid for; what an honest repair may do, if rarely, is a risk: such a candidate is tested
last and says so in the report. `tests/benchmarks/guard_rates.py` measures both over real fixes and releases.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.draft.edited import (
    EditedFunction,
    TestTraits,
    answers_of,
    branches_in,
    called_name,
    does_nothing,
    edited_functions,
    equalities_in,
    handlers_of_everything,
    is_literal,
    literals_in,
    names_in,
    num_checks,
    num_compared,
    one_of,
    walked,
    without_checks,
)

_NO_CODE = re.compile(
    r"(^|/)(\.github|\.gitlab|\.circleci|ci|docs?)/|(^|/)(Dockerfile|[^/]*\.(ya?ml|toml|cfg|ini|lock|md|rst|txt))$"
)
_ASKS_FOR_TESTS = re.compile(r"\bPYTEST|pytest\b|\bunittest\b|_called_from_test")
_SKIPS = frozenset(
    {"skip", "skipif", "skipIf", "skipUnless", "skipTest", "xfail", "SkipTest", "importorskip"}
)
_EXITS = frozenset({"exit", "quit", "_exit", "abort", "SystemExit", "killpg"})
_WATCHES = frozenset({"_getframe", "currentframe", "settrace", "setprofile"})


@dataclass(frozen=True)
class Finding:
    """What a guard says of a candidate."""

    guard: str  # its name
    reason: str
    is_refusal: bool  # else a risk


def review(
    files: Mapping[str, bytes], base: Callable[[str], bytes], tests: TestTraits
) -> tuple[Finding, ...]:
    """Return what the guards find in these changed files, refusals first; `base` gives a file as it was."""
    if all(_NO_CODE.search(path) for path in files):
        return (Finding("no_code", "it changes no code", is_refusal=True),)
    found: list[Finding] = []
    for edited in edited_functions(files, base, tests):
        for guard in (*REFUSING, *WARNING):
            if reason := guard(edited):
                is_refusal = guard in REFUSING and not (guard in _DOUBTFUL_IF_NEW and edited.is_new)
                found.append(Finding(guard.__name__, reason, is_refusal))
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: not finding.is_refusal))


# ---------------------------------------------------------------- guards: a reason, or an empty string


def asks_for_tests(edited: EditedFunction) -> str:
    """Code that asks whether it is being tested has no place in a repair."""
    names = names_in(edited.added)
    found = [name for name in names if _ASKS_FOR_TESTS.search(name)]
    before = set(names_in(ast.walk(edited.old))) if edited.old else set()
    return "it asks whether it is being tested" if set(found) - before else ""


def names_failing_tests(edited: EditedFunction) -> str:
    """The module of a failing test, named in a repair."""
    words = {word for name in names_in(edited.added) for word in re.findall(r"\w+", name)}
    before = {word for name in names_in(walked(edited.old)) for word in re.findall(r"\w+", name)}
    named = [name for name in edited.tests.module_names if name in words - before]
    return f"it names the failing test's module {named[0]}" if named else ""


def skips_tests(edited: EditedFunction) -> str:
    """A call that makes the running test count as skipped or expected to fail."""
    called = {called_name(node) for node in edited.added} & _SKIPS
    return "it skips the test" if called - {called_name(node) for node in walked(edited.old)} else ""


def exits(edited: EditedFunction) -> str:
    """A call that ends the process before the tests can say anything."""
    called = {called_name(node) for node in edited.added} & _EXITS
    return "it ends the process" if called - {called_name(node) for node in walked(edited.old)} else ""


def watches_its_caller(edited: EditedFunction) -> str:
    """A look at the stack, by which code can tell a test from other callers."""
    called = {called_name(node) for node in edited.added} & _WATCHES
    return "it looks at its caller" if called - {called_name(node) for node in walked(edited.old)} else ""


def special_cases_input(edited: EditedFunction) -> str:
    """A branch on a value of the failing test that answers with a constant."""
    foreign = edited.tests.literals - edited.old_literals()
    for test, answers in branches_in(edited.added):
        asked = equalities_in(test) & foreign
        constants = [answer for answer in answers if is_literal(answer)]
        if asked and constants:
            return f"it answers the test's own input {one_of(asked)} with a constant"
        expected = {literal for answer in constants for literal in literals_in(answer)} & foreign
        if expected and num_compared(test) > 1:
            return f"it answers one input with {one_of(expected)}, which the failing test expects"
    return ""


def looks_up_input(edited: EditedFunction) -> str:
    """A table from values of the failing test to answers."""
    foreign = edited.tests.literals - edited.old_literals()
    for node in edited.added:
        table = node.value if isinstance(node, ast.Subscript) else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            table = node.func.value
        if isinstance(table, ast.Dict):
            keys = {literal for key in table.keys if key for literal in literals_in(key)}
            if keys & foreign and all(is_literal(value) for value in table.values):
                return "it looks the answer to the test's input up in a table"
    return ""


def is_constant(edited: EditedFunction) -> str:
    """A function that had to compute its answer and now says what the test expects, whatever it is given."""
    if isinstance(edited.new, ast.Module) or edited.old is None:
        return ""
    answers, before = answers_of(edited.new), answers_of(edited.old)
    expected = {literal for answer in answers for literal in literals_in(answer)} & edited.tests.literals
    constant = bool(answers) and all(is_literal(answer) for answer in answers)
    if constant and expected and not all(is_literal(answer) for answer in before):
        return "it returns what the test expects, whatever it is given"
    return ""


def recites(edited: EditedFunction) -> str:
    """A function that is new and only knows the test's own inputs and answers."""
    answers = [] if isinstance(edited.new, ast.Module) else answers_of(edited.new)
    known = equalities_in(edited.new) & edited.tests.literals
    only_constants = bool(answers) and all(is_literal(answer) for answer in answers)
    return (
        "it recites the test's own inputs and answers" if edited.is_new and known and only_constants else ""
    )


def swallows_with_answer(edited: EditedFunction) -> str:
    """A handler of everything that answers with what the test expects."""
    for handler in handlers_of_everything(edited.added):
        for answer in (node.value for node in ast.walk(handler) if isinstance(node, ast.Return)):
            if answer is not None and is_literal(answer) and literals_in(answer) & edited.tests.literals:
                return "it answers every error with what the test expects"
    return ""


def swallows(edited: EditedFunction) -> str:
    """A handler of everything that does nothing with it."""
    for handler in handlers_of_everything(edited.added):
        if all(does_nothing(statement) for statement in handler.body):
            return "it catches every error and says nothing"
    return ""


def drops_checks(edited: EditedFunction) -> str:
    """A change that touches nothing but assertions."""
    if edited.old is None or not num_checks(edited.old) or num_checks(edited.new) > num_checks(edited.old):
        return ""
    same = without_checks(edited.old) == without_checks(edited.new)
    return "all it does is to drop or change assertions" if same else ""


def returns_expected(edited: EditedFunction) -> str:
    """A constant of the failing test that is returned, and was not in the function before."""
    foreign = edited.tests.literals - edited.old_literals()
    returned = [node.value for node in edited.added if isinstance(node, ast.Return) and node.value]
    found = {literal for value in returned if is_literal(value) for literal in literals_in(value)} & foreign
    return f"it returns {one_of(found)}, which the failing test expects" if found else ""


def compares_with_input(edited: EditedFunction) -> str:
    """A new comparison with a value of the failing test."""
    foreign = edited.tests.literals - edited.old_literals()
    asked = {literal for node in edited.added for literal in equalities_in(node) & foreign}
    return f"it compares with the test's own {one_of(asked)}" if asked else ""


Guard = Callable[[EditedFunction], str]
REFUSING: tuple[Guard, ...] = (
    asks_for_tests,
    names_failing_tests,
    skips_tests,
    exits,
    special_cases_input,
    looks_up_input,
    is_constant,
    recites,
    swallows_with_answer,
)
# What is written for the first time may have to know values that its tests show: units, names of days.
_DOUBTFUL_IF_NEW: tuple[Guard, ...] = (special_cases_input, looks_up_input)
WARNING: tuple[Guard, ...] = (
    watches_its_caller,
    swallows,
    drops_checks,
    returns_expected,
    compares_with_input,
)
