"""Localising and packing: the fault ranks high, and a prompt holds what matters within its budget."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.context.failures import Evidence, excerpt, frames, is_test_path
from pipeline.context.localise import localise, named_suspects
from pipeline.context.packing import pack
from pipeline.context.symbols import definitions, module_statements
from pipeline.core import Suspect, TestCase, TestStatus
from pipeline.exceptions import InputError, LimitReachedError
from pipeline.snapshot import Snapshot

SHAPES = '''\
import math
import os
from typing import Any

SIDES = {"square": 4}
PREFIX = "shape"
LABELS = [PREFIX]


class Shape:
    """A shape."""

    kind = "any"

    def __init__(self, size: float) -> None:
        self.size = size

    @property
    def area(
        self,
    ) -> float:  # of a square
        # a comment before the body
        return helper(self.size) * math.pi

    def perimeter(self) -> float:
        return self.size * SIDES["square"]


def helper(size):
    return size * size


def unrelated(LABELS=LABELS): return LABELS
'''
TESTS = """\
from shapes import Shape


class TestShape:
    def test_area(self):
        assert Shape(2).area == 4


def test_perimeter():
    assert Shape(2).perimeter() == 9
"""


def make_tree(root: Path, files: Mapping[str, str | bytes]) -> Snapshot:
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Snapshot(root=root, commit="")


def failing(test_id: str, details: str = "", message: str = "") -> TestCase:
    return TestCase(test_id=test_id, status=TestStatus.FAILED, message=message, details=details)


async def count_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


@pytest.fixture
def shapes(tmp_path: Path) -> Snapshot:
    return make_tree(tmp_path, {"src/shapes.py": SHAPES, "tests/test_shapes.py": TESTS})


def suspect_named(snapshot: Snapshot, qualname: str, path: str = "src/shapes.py") -> Suspect:
    found = next(d for d in definitions(path, snapshot.read_bytes(path)) if d.qualname == qualname)
    return Suspect(
        path=path, qualname=qualname, start_line=found.start_line, end_line=found.end_line, score=1.0
    )


def test_functions_that_the_task_names_are_the_suspects_in_its_order(shapes: Snapshot) -> None:
    found = named_suspects(shapes, ["src/shapes.py::unrelated", "src/shapes.py::Shape.area"])
    assert [(s.qualname, s.start_line) for s in found] == [("unrelated", 33), ("Shape.area", 18)]
    with pytest.raises(InputError, match=r"no function src/shapes\.py::Shape\.areas") as caught:
        named_suspects(shapes, ["src/shapes.py::Shape.areas"])
    assert "Shape.area?" in caught.value.hint


def test_functions_on_the_traceback_rank_first(shapes: Snapshot) -> None:
    details = (
        "tests/test_shapes.py:6: in test_area\n\nsrc/shapes.py:23: in area\n\nsrc/shapes.py:30: TypeError"
    )
    evidence = Evidence(failures=(failing("tests/test_shapes.py::TestShape::test_area", details),))
    suspects = localise(shapes, evidence, num_suspects=3)
    assert {s.qualname for s in suspects[:2]} == {"helper", "Shape.area"}
    assert all("traceback" in s.evidence[0] for s in suspects[:2])
    assert "traceback" not in " ".join(suspects[2].evidence)


def test_an_assertion_without_frames_finds_what_the_test_calls(shapes: Snapshot) -> None:
    evidence = Evidence(failures=(failing("tests/test_shapes.py::test_perimeter", "E  assert 8 == 9"),))
    assert localise(shapes, evidence, num_suspects=1)[0].qualname == "Shape.perimeter"


def test_a_function_that_no_failing_test_ran_ranks_below_those_that_ran(shapes: Snapshot) -> None:
    evidence = Evidence(
        failures=(failing("tests/test_shapes.py::test_perimeter"),),
        covered={"src/shapes.py": frozenset({16, 23, 30})},
    )
    names = [s.qualname for s in localise(shapes, evidence, num_suspects=10)]
    assert names.index("Shape.area") < names.index("Shape.perimeter")


def test_of_functions_that_failing_tests_ran_the_more_suspicious_ranks_first(shapes: Snapshot) -> None:
    evidence = Evidence(failures=(), covered={"src/shapes.py": frozenset({23, 30})})
    for worst, other in ((23, 30), (30, 23)):
        suspicion = {"src/shapes.py": {worst: 0.9, other: 0.3}}
        first, *_ = localise(shapes, replace(evidence, suspicion=suspicion), num_suspects=2)
        assert first.start_line <= worst <= first.end_line
        assert "Ochiai 0.90" in first.evidence


def test_tests_and_setup_files_are_never_suspects(tmp_path: Path) -> None:
    text = "def area():\n    return 1\n"
    snapshot = make_tree(
        tmp_path, {"tests/helpers.py": text, "setup.py": text, "conftest.py": text, "pkg/test_it.py": text}
    )
    assert localise(snapshot, Evidence(failures=(), statement="area"), num_suspects=5) == ()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("tests/unit/a.py", True),
        ("pkg/testing_tools.py", False),  # only the folder or the prefix makes a test
        ("pkg/latest.py", False),
        ("pkg/attest/a.py", False),
        ("a_test.py", True),
        ("tests.py", True),
        ("jinja2/tests.py", False),  # a module of that name, deep in a package
        ("docs/conf.py", True),
    ],
)
def test_test_paths_are_told_from_sources(path: str, expected: bool) -> None:
    assert is_test_path(path) is expected


def test_a_file_that_does_not_parse_still_has_its_definitions() -> None:
    source = b"def ok():\n    pass\n\ndef bad(x):\n    x = (1\n    return x\n\ndef after():\n    pass\n"
    assert [d.qualname for d in definitions("a.py", source)] == ["ok", "bad", "after"]


def test_line_numbers_survive_crlf_and_form_feeds() -> None:
    source = b"import os\r\n\x0c\r\ndef f():\r\n    return 1\r\n"
    (found,) = definitions("a.py", source)
    assert (found.start_line, found.end_line) == (3, 4)


def test_conditional_imports_are_not_module_statements_but_plain_ones_are() -> None:
    kinds = [s.kind for s in module_statements(b"import a\nX = 1\nif a:\n    import b\n")]
    assert kinds == ["import", "assignment"]


def test_frames_outside_the_tree_are_left_out(shapes: Snapshot) -> None:
    details = (
        'File "/usr/lib/python3.11/json/x.py", line 3\n  File "/workspace/src/shapes.py", line 29, in x\n'
    )
    assert frames(details, shapes) == (("src/shapes.py", 29),)


def test_an_excerpt_keeps_the_assertion_and_is_bounded() -> None:
    noise = "\n".join(f"    line {i}" for i in range(500))
    details = f"{noise}\n>       assert f(1) == 2\nE       assert 1 == 2\n\ntests/test_a.py:5: AssertionError"
    text = excerpt(failing("t", details))
    assert text.splitlines()[:2] == [">       assert f(1) == 2", "E       assert 1 == 2"]
    assert len(excerpt(failing("t", "E x\n" * 1000)).splitlines()) <= 32


async def test_a_pack_holds_the_header_used_names_class_and_test(shapes: Snapshot) -> None:
    evidence = Evidence(
        failures=(failing("tests/test_shapes.py::TestShape::test_area", "E   assert 12 == 4"),)
    )
    bundle = await pack(
        shapes,
        suspect_named(shapes, "Shape.area"),
        evidence,
        width="wide",
        max_tokens=500,
        count_tokens=count_words,
    )
    assert bundle.header.splitlines()[0].strip() == "@property"
    assert bundle.header.rstrip().endswith("-> float:  # of a square")
    assert bundle.imports == "import math"
    assert "def __init__" in bundle.enclosing
    assert "perimeter" not in bundle.enclosing
    assert 'kind = "any"' in bundle.enclosing
    assert "A shape." not in bundle.enclosing
    assert "def test_area" in bundle.failing_tests[0]
    assert bundle.failure == "E   assert 12 == 4"
    assert bundle.related[0].startswith("def helper")


async def test_constants_of_constants_are_part_of_the_imports(shapes: Snapshot) -> None:
    bundle = await pack(
        shapes,
        suspect_named(shapes, "unrelated"),
        Evidence(failures=()),
        width="narrow",
        max_tokens=500,
        count_tokens=count_words,
    )
    assert bundle.imports.splitlines() == ['PREFIX = "shape"', "LABELS = [PREFIX]"]
    assert bundle.header == "def unrelated(LABELS=LABELS):"


async def test_a_pack_never_exceeds_its_budget(shapes: Snapshot) -> None:
    evidence = Evidence(failures=(failing("tests/test_shapes.py::TestShape::test_area", "E word\n" * 300),))
    suspect = suspect_named(shapes, "Shape.area")
    for max_tokens in range(24, 200, 12):
        bundle = await pack(
            shapes, suspect, evidence, width="wide", max_tokens=max_tokens, count_tokens=count_words
        )
        parts = [bundle.imports, bundle.failure, bundle.enclosing, *bundle.failing_tests, *bundle.related]
        total = sum(await count_words([bundle.definition, *parts]))
        assert total <= bundle.num_tokens + 3  # the note of a cut
        assert bundle.num_tokens <= max_tokens


async def test_a_definition_larger_than_the_budget_is_refused(shapes: Snapshot) -> None:
    with pytest.raises(LimitReachedError, match=r"Shape\.area"):
        await pack(
            shapes,
            suspect_named(shapes, "Shape.area"),
            Evidence(failures=()),
            width="narrow",
            max_tokens=5,
            count_tokens=count_words,
        )
