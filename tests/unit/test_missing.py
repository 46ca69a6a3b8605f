"""Definitions that failing tests ask for: found by what the exception says, shaped by how tests use them."""

from __future__ import annotations

import ast

import pytest

from pipeline.context.missing import find_missing
from pipeline.context.scaffold import scaffolded
from pipeline.context.signature import parameters_of
from pipeline.core import TestCase, TestStatus
from pipeline.snapshot import Snapshot

MODULE = """\
import os


class Box:
    def __init__(self, items):
        self.items = items

    class Lid:
        open = False


def first(x):
    return x


def last(x):
    return x


if __name__ == "__main__":
    first(1)
"""
FILES = {
    "pkg/__init__.py": "from .core import first, last\n",
    "pkg/core.py": MODULE,
    "tests/test_core.py": "",
}


def tree(tmp_path, test: str, **files: str) -> Snapshot:
    for path, text in {**FILES, **files, "tests/test_core.py": test}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return Snapshot(tmp_path, commit="")


def failed(message: str, *, place: str = "tests/test_core.py", test: str = "::test_a") -> TestCase:
    return TestCase(
        test_id=f"tests/test_core.py{test}",
        status=TestStatus.FAILED,
        message=message,
        details=f"{place}:1: in test_a\nE   {message}",
    )


CANNOT = "ImportError: cannot import name '{}' from 'pkg.core' (/workspace/pkg/core.py)"
MODULE_LACKS = "AttributeError: module 'pkg.core' has no attribute 'extra'"


@pytest.mark.parametrize(
    ("test", "message", "kind", "qualname"),
    [
        ("from pkg.core import extra\nassert extra(1)", CANNOT.format("extra"), "function", "extra"),
        ("from pkg.core import extra\nawait extra(1)", CANNOT.format("extra"), "async function", "extra"),
        ("from pkg.core import extra\n@extra\ndef f(): pass", CANNOT.format("extra"), "function", "extra"),
        ("from pkg.core import Stack\nStack().push(1)", CANNOT.format("Stack"), "class", "Stack"),
        ("from pkg.core import BoxError", CANNOT.format("BoxError"), "error", "BoxError"),
        ("from pkg.core import Gone\nwith raises(Gone): f()", CANNOT.format("Gone"), "error", "Gone"),
        ("import pkg.core as c\nassert c.extra(2) == 3", MODULE_LACKS, "function", "extra"),
        (
            "b = Box([])\nassert b.size(1) == 0",
            "AttributeError: 'Box' object has no attribute 'size'",
            "method",
            "Box.size",
        ),
        (
            "assert Box([]).size == 0",
            "AttributeError: 'Box' object has no attribute 'size'",
            "property",
            "Box.size",
        ),
        (
            "assert Box.of(1, 2)",
            "AttributeError: type object 'Box' has no attribute 'of'",
            "classmethod",
            "Box.of",
        ),
    ],
)
def test_what_is_missing_is_told_by_the_exception_and_its_kind_by_the_tests(
    tmp_path, test, message, kind, qualname
):
    snapshot = tree(tmp_path, test)
    [found] = find_missing(snapshot, [failed(message)])
    assert (found.path, found.qualname, found.kind) == ("pkg/core.py", qualname, kind)
    text = scaffolded(snapshot, [found])["pkg/core.py"].decode()
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert found.name in {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, defined)}
    for line in MODULE.splitlines():
        assert line in text


@pytest.mark.parametrize(
    ("test", "failure"),
    [
        ("from pkg.core import LIMIT", failed(CANNOT.format("LIMIT"))),  # a constant
        ("from pkg.core import extra\nassert extra == 3", failed(CANNOT.format("extra"))),
        ("import pkg.core as c\nc.last(2)", failed(MODULE_LACKS, place="pkg/core.py")),  # a slip of the code
        ("b.size()", failed("AttributeError: 'NoneType' object has no attribute 'size'")),
        ("b.size()", failed("AttributeError: 'Nowhere' object has no attribute 'size'")),
        ("b.size()", failed("AttributeError: 'Box' object has no attribute '__len__'")),
        (
            "assert Box([]).itemz == []",
            failed("AttributeError: 'Box' object has no attribute 'itemz'"),  # much like items: a slip
        ),
        ("first()", failed("NameError: name 'extra' is not defined", place="pkg/core.py")),
        ("from pkg.core import extra\nextra()", failed("ImportError: cannot import name 'extra' from 'os'")),
        ("from pkg.core import extra\nextra()", failed("AssertionError: assert 1 == 2")),
        (
            "from pkg.core import last\nlast()",
            failed(CANNOT.format("last")),
        ),  # it is there: a circular import
    ],
)
def test_nothing_is_added_on_a_guess(tmp_path, test, failure):
    assert find_missing(tree(tmp_path, test), [failure]) == ()


def test_all_names_that_a_test_file_imports_in_vain_are_found_at_once(tmp_path):
    test = "from pkg.core import extra, last, more\nfrom os import nothing\nextra(more(last(1)))\n"
    found = find_missing(tree(tmp_path, test), [failed(CANNOT.format("extra"), test="")])
    assert [one.name for one in found] == ["extra", "more"]
    assert found[0].calls == ("extra(more(last(1)))",)


def test_what_tests_import_from_a_package_is_written_beside_what_they_import_otherwise(tmp_path):
    snapshot = tree(tmp_path, "from pkg import extra, first\nassert extra(first(2)) == 1\n")
    message = "ImportError: cannot import name 'extra' from 'pkg' (/workspace/pkg/__init__.py)"
    found = find_missing(snapshot, [failed(message)])
    files = scaffolded(snapshot, found)
    assert [one.path for one in found] == ["pkg/core.py"]
    assert files["pkg/__init__.py"].decode() == "from .core import first, last\nfrom .core import extra\n"
    lines = files["pkg/core.py"].decode().splitlines()
    assert lines.index("def extra(value):") == lines.index("def first(x):") + 4  # behind its user's


def test_a_name_that_the_code_itself_lacks_counts_where_the_task_is_to_implement_it(tmp_path):
    code = MODULE.replace("    return x\n\n\ndef last", "    return extra(x, 1)\n\n\ndef last")
    snapshot = tree(tmp_path, "from pkg.core import first\nassert first(1)", **{"pkg/core.py": code})
    failure = failed("NameError: name 'extra' is not defined", place="pkg/core.py")
    [found] = find_missing(snapshot, [failure], implements=True)
    assert (found.name, found.calls) == ("extra", ("extra(x, 1)",))


def test_functions_that_the_task_names_are_added_where_they_are_not_there(tmp_path):
    snapshot = tree(tmp_path, "assert 1")
    names = ["pkg/core.py::extra", "pkg/core.py::last", "pkg/core.py::Box.size", "pkg/none.py::f"]
    found = find_missing(snapshot, [failed("AssertionError")], functions=names)
    assert [one.qualname for one in found] == ["extra"]  # nothing says whether size is a property


def test_two_classes_of_one_name_are_not_guessed_between(tmp_path):
    snapshot = tree(tmp_path, "Box([]).size()", **{"pkg/other.py": "class Box:\n    pass\n"})
    assert not find_missing(snapshot, [failed("AttributeError: 'Box' object has no attribute 'size'")])


def test_line_ends_tabs_and_a_missing_last_newline_are_kept(tmp_path):
    code = "class Box:\r\n\tdef get(self):\r\n\t\treturn 1"
    snapshot = tree(tmp_path, "Box().size('ß')", **{"pkg/core.py": ""})
    (tmp_path / "pkg/core.py").write_bytes(code.encode())
    found = find_missing(snapshot, [failed("AttributeError: 'Box' object has no attribute 'size'")])
    done = scaffolded(snapshot, found)["pkg/core.py"]
    assert done.startswith(code.encode() + b"\n\r\n\tdef size(self, text):\r\n\t\t# TODO")
    assert b"\\xdf" in done


def test_a_module_that_does_not_parse_takes_no_stub(tmp_path):
    snapshot = tree(tmp_path, "from pkg.core import extra\nextra()", **{"pkg/core.py": "def (:\n"})
    assert scaffolded(snapshot, find_missing(snapshot, [failed(CANNOT.format("extra"))])) == {}


@pytest.mark.parametrize(
    ("calls", "parameters"),
    [
        (["f()"], ""),
        (["f(1)", "f('a')"], "value"),
        (["f('a')", "f('b')"], "text"),
        (["f(text, 2)"], "text, value"),
        (["f(x, x)"], "x, x2"),
        (["f([1], {}, lambda x: x, b'', True, g())"], "items, mapping, function, data, flag, value"),
        (["f(1, 2, 3)", "f(1, low=2)", "f(1, high=3)"], "value, low=None, high=None"),
        (["f(1)", "f(1, 2)"], "value, value2=None"),
        (["f(1)", "f(1, 2, 3)"], "value, *args"),
        (["f([1], key=len)"], "items, key"),
        (["f([1], key=len)", "f([1])"], "items, key=None"),
        (["f(*x)"], "*args, **kwargs"),
        (["f(**x)", "f(1)"], "value"),
        ([], "*args, **kwargs"),
    ],
)
def test_the_parameters_are_those_that_all_calls_can_give(calls, parameters):
    nodes = [ast.parse(call, mode="eval").body for call in calls]
    assert parameters_of(nodes) == parameters
    module: dict[str, object] = {}
    exec(f"def f({parameters}): pass", module)
    for call in calls:
        if "x" not in call:
            eval(call, module | {"g": int})
