"""Each operator makes the bug that its name promises, and changes nothing else."""

from __future__ import annotations

import ast
import bisect
import functools
import heapq
import json.decoder
import shlex
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bench.mutation import drop_reason, functions, mutations
from pipeline.bench.operators import OPERATORS
from pipeline.bench.source import Source
from pipeline.exceptions import InputError

# operator, a line of a function, and what becomes of it: one text for each mutation, in order of the text.
LINES = [
    ("comparison-boundary", "return a < b", ["return a <= b"]),
    ("comparison-boundary", "return a  >= (b) > c", ["return a  > (b) > c", "return a  >= (b) >= c"]),
    ("comparison-boundary", "return a == b", []),
    ("comparison-direction", "return a < b", ["return a > b"]),
    ("comparison-opposite", "return a == b", ["return a != b"]),
    ("comparison-opposite", "return a is  not b", ["return a is b"]),
    ("comparison-opposite", "return a not in b", ["return a in b"]),
    ("boolean-swap", "return a and b and c", ["return a or b and c", "return a and b or c"]),
    ("boolean-operand-drop", "return a or b == c", ["return (b == c)", "return a"]),
    ("condition-negate", "x = a if b else c", ["x = a if not b else c"]),
    ("condition-negate", "x = a if b or c else c", ["x = a if not (b or c) else c"]),
    ("condition-negate", "x = a if not b else c", []),
    ("not-drop", "return not a", ["return a"]),
    ("not-drop", "return not(a)", ["return a"]),
    (
        "isinstance-narrow",
        "return isinstance(a, (int, m.str))",
        ["return isinstance(a, int)", "return isinstance(a, m.str)"],
    ),
    ("ternary-swap", "return (a) if b  else  c", ["return (c) if b  else  a"]),
    ("arithmetic-swap", "return a + b * c", ["return a - b * c", "return a + b / c"]),
    ("arithmetic-swap", "return 'x' + a", []),
    ("augmented-swap", "a += b", ["a -= b"]),
    ("augmented-to-assign", "a  <<= b", ["a  = b"]),
    ("minus-drop", "return -a", ["return a"]),
    ("number-off-by-one", "return a[1]", ["return a[0]", "return a[2]"]),
    ("number-off-by-one", "return f(1)", []),
    ("range-bound", "x = range(b)", ["x = range(b + 1)", "x = range(b - 1)"]),
    ("range-bound", "x = range(0, b - 1)", ["x = range(0, b)"]),
    ("slice-bound", "return a[b:]", ["return a[b + 1:]", "return a[b - 1:]"]),
    ("slice-bound", "return a[1:2]", ["return a[:2]", "return a[1:]"]),
    ("index-end", "return a[0] + a[ -1 ]", ["return a[-1] + a[ -1 ]", "return a[0] + a[ 0 ]"]),
    (
        "constant-wrong",
        "return True, 0, ''",
        ["return False, 0, ''", "return True, 1, ''", "return True, 0, None"],
    ),
    ("empty-collection-none", "x = []", ["x = None"]),
    ("variable-wrong", "return a", ["return b", "return c"]),
    ("exception-type", "raise KeyError(a)", ["raise IndexError(a)"]),
    ("method-sibling", "a.append(any(b))", ["a.extend(any(b))", "a.append(all(b))"]),
    ("arguments-swap", "return f(a,  b)", ["return f(b,  a)"]),
    ("arguments-swap", "return f(a, a)", []),
    ("keyword-drop", "return f(a, key=b, c=c)", ["return f(a, c=c)", "return f(a, key=b)"]),
    ("copy-drop", "x = list(a)", ["x = a"]),
    ("normalise-drop", "x = a.b.strip()", ["x = a.b"]),
    ("await-drop", "return await a", ["return a"]),
    ("get-default", "return a.get(b, c)", ["return a.get(b)"]),
    ("get-default", "return a.get(b)", ["return a[b]"]),
    ("return-drop", "return f(a)", ["f(a)"]),
    ("return-value", "return a", ["return None"]),
    ("return-value", "return a, b", ["return b, a"]),
    ("yield-from-drop", "yield from a", ["yield a"]),
]
# The same for several lines; the function's head is `def f(a, b, c):` here too.
BLOCKS = [
    ("elif-to-if", "if a:\n    b()\nelif c:\n    c()\n", ["if a:\n    b()\nif c:\n    c()\n"]),
    ("call-drop", "b = 1\nf(a)  # note\nreturn b\n", ["b = 1\nreturn b\n"]),
    ("call-drop", "if a: f(a)\n", ["if a: pass\n"]),
    ("assignment-drop", "a.x = b\nreturn a\n", ["return a\n"]),
    ("reassignment-drop", "a = f(a)\nb += 1\nc = 1\n", ["b += 1\nc = 1\n", "a = f(a)\nc = 1\n"]),
    ("guard-drop", "if a:\n    return b\n\nreturn c\n", ["\nreturn c\n"]),
    ("guard-drop", "if a:\n    return b\nelse:\n    a()\nreturn c\n", []),
    ("branch-drop", "if a:\n    b = c\nreturn b\n", ["return b\n"]),
    (
        "loop-control",
        "for x in a:\n    if x: continue\n    break\n",
        ["for x in a:\n    if x: break\n    break\n", "for x in a:\n    if x: continue\n    continue\n"],
    ),
    (
        "handler-swallow",
        "try:\n    a()\nexcept E:\n    raise\n",
        ["try:\n    a()\nexcept E:\n    pass\n"],
    ),
    (
        "exception-narrow",
        "try:\n    a()\nexcept (A, B):\n    pass\n",
        ["try:\n    a()\nexcept A:\n    pass\n", "try:\n    a()\nexcept B:\n    pass\n"],
    ),
]
WHOLE = [
    ("default-parameter", "def f(a=1, *, b=None, c='x'):\n    return a\n", ["a=2", "b=False", "c=''"]),
    (
        "attribute-wrong",
        "class C:\n  def g(self):\n    self.left = self.right = 0\n\n  def f(self):\n    return self.left\n",
        ["return self.right"],
    ),
]


def mutants(operator: str, data: bytes) -> list[bytes]:
    """What the operator alone makes of a file, in order of the text."""
    source = Source("m.py", data)
    edits = {edit for view in functions(source) for edit in OPERATORS[operator].find(view)}
    return [source.edited([edit]) for edit in sorted(edits)]


def function(body: str, keyword: str = "def") -> str:
    return f"# é\n{keyword} f(a, b, c):\n" + textwrap.indent(body, "    ")


def test_there_is_an_example_of_every_operator():
    assert {operator for operator, *_ in LINES + BLOCKS + WHOLE} == set(OPERATORS)
    assert len(OPERATORS) >= 12
    assert all(operator.description for operator in OPERATORS.values())


@pytest.mark.parametrize(("operator", "line", "expected"), LINES)
def test_an_operator_changes_a_line_as_it_says(operator, line, expected):
    keyword = "async def" if "await" in line else "def"
    found = mutants(operator, function(line + "\n", keyword).encode())
    assert found == [function(text + "\n", keyword).encode() for text in expected]


@pytest.mark.parametrize(("operator", "block", "expected"), BLOCKS)
def test_an_operator_changes_a_block_as_it_says(operator, block, expected):
    found = mutants(operator, function(block).encode())
    assert found == [function(text).encode() for text in expected]


@pytest.mark.parametrize(("operator", "text", "expected"), WHOLE)
def test_an_operator_looks_at_the_head_and_at_the_class(operator, text, expected):
    found = mutants(operator, text.encode())
    assert len(found) == len(expected)
    assert all(part in mutant.decode() for part, mutant in zip(expected, found, strict=True))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_encodings_and_line_ends_are_kept_and_positions_are_right_in_them(encoding, line_end):
    cookie = "latin-1" if encoding == "latin-1" else "utf-8"
    lines = [f"# -*- coding: {cookie} -*-", "def f(ä, b):", "\t# é\f", "\treturn 'ü' if ä < b else 'ß'", ""]
    data = line_end.join(lines).encode(encoding)
    assert mutants("comparison-boundary", data) == [data.replace(b" < ", b" <= ")]


def test_docstrings_annotations_decorators_and_f_strings_are_left_alone():
    text = '''
@d(1 < 2)
def f(a: x[0], b: y or z) -> "p < q":
    """a < b and c"""
    c: u[0] = g()

    def h(d: 1 < 2):
        """1 < 2"""
    return f"{a < b} {a[0]} {not a}"
'''
    assert mutations(Source("m.py", text.encode())) == []


def test_old_mac_line_ends_are_lines_too():
    data = b"def f(a, b):\r    # a < b\r    return a < b\r"
    assert mutants("comparison-boundary", data) == [data.replace(b"return a <", b"return a <=")]


def test_a_mutation_names_the_outermost_function_and_the_lines_that_reach_it():
    text = """class A:
    def f(self, x=1):
        if (x
                < 2):
            return 1
        return [
            3 + 4]
"""
    found = {m.operator: m for m in mutations(Source("p/m.py", text.encode()))}
    boundary = found["comparison-boundary"]
    assert (boundary.place, boundary.line, boundary.reach) == ("p/m.py::A.f", 4, (3, 4))
    assert found["arithmetic-swap"].reach == (6, 7)
    assert found["default-parameter"].reach == (3, 7)


def test_functions_in_functions_belong_to_the_outer_one_and_conditional_ones_are_found():
    text = """try:
    def f():
        def g(x):
            return x < 1
        return g
except E:
    def h(): return 1 < 2
"""
    source = Source("m.py", text.encode())
    assert [view.qualname for view in functions(source)] == ["f", "h"]
    assert {m.qualname for m in mutations(source) if m.operator == "comparison-boundary"} == {"f", "h"}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("def f():\n    return 1\n", "def f(:\n", "does not compile"),
        ("def f():\n    return 1\n", "def f():\n    '''doc'''\n    return (1)  # note\n", "equivalent"),
        ("def f():\n    return 2 * 3\n", "def f():\n    return 6\n", "equivalent"),  # the same byte code
        ("def f():\n    return 1\n", "def f():\n    return True\n", ""),  # equal, and not the same
        ("def f():\n    return 0.0\n", "def f():\n    return -0.0\n", ""),
        ("def f():\n    while x:\n        continue\n", "def f():\n    while x:\n        break\n", ""),
    ],
)
def test_what_is_no_bug_is_dropped(old, new, reason):
    assert drop_reason(old.encode(), new.encode()) == reason


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_mutant_compiles_or_is_dropped_and_differs_in_its_span_alone(data):
    source = data.draw(st.sampled_from(_sources()), label="file")
    mutation = data.draw(st.sampled_from(mutations(source)), label="mutation")
    edit, new = mutation.edit, source.edited([mutation.edit])
    head, tail = source.text[: edit.start].encode(), source.text[edit.end :].encode()
    assert new == head + edit.text.encode() + tail
    reason = drop_reason(source.data, new)
    assert reason in ("", "equivalent", "does not compile")
    if not reason:
        before, after = _bodies(source.data), _bodies(new)
        assert before.keys() == after.keys()
        assert [name for name in before if before[name] != after[name]] == [mutation.qualname]


def test_two_mutations_of_one_file_are_made_together_and_overlapping_ones_are_refused():
    source = Source("m.py", b"def f(a, b):\n    return a < b and b > a\n")
    first, second = (
        edit for view in functions(source) for edit in OPERATORS["comparison-boundary"].find(view)
    )
    assert source.edited([second, first]) == b"def f(a, b):\n    return a <= b and b >= a\n"
    whole = replace(first, end=second.end)
    with pytest.raises(InputError, match="overlap"):
        source.edited([whole, second])


@pytest.mark.parametrize(
    "data",
    [b"def f(:\n", b"\xff\xfe", b"# coding: nonsense\n", b"x = 'a\0b'\n", b"# coding: utf-7\n+AGE-=1\n"],
)
def test_what_is_no_python_is_refused(data):
    with pytest.raises(InputError, match=r"^m\.py"):
        Source("m.py", data)


@functools.cache
def _sources() -> list[Source]:
    """Real files: some of ours, some of the standard library's."""
    ours = sorted((Path(__file__).parents[2] / "pipeline" / "draft").glob("*.py"))
    theirs = [Path(module.__file__) for module in (bisect, heapq, json.decoder, shlex, textwrap)]
    found = [Source(path.name, path.read_bytes()) for path in (*ours, *theirs)]
    return [source for source in found if mutations(source)]


def _bodies(data: bytes) -> dict[str, str]:
    """Every function with its text as a tree, and what stands outside of functions."""
    source = Source("m.py", data)
    bodies = {view.qualname: ast.dump(view.node) for view in functions(source)}
    for view in functions(source):
        view.node.body = []
        view.node.args = ast.arguments([], [], None, [], [], None, [])
    return bodies | {"": ast.dump(source.tree)}
