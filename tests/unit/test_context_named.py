"""What is promised of the places that an answer names: all of them are there, and none is invented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context.named import named_spans
from pipeline.context.tree.index import index
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.snapshot import Snapshot

_CODE = b"""import os


class Box:
    size = 1

    def weigh(self):
        return 2


def ship(box):
    return box
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> RepoTree:
    changed = {"shop/boxes.py": _CODE, "read-me.txt": b"one\ntwo\nthree\n"}
    return index(Snapshot(tmp_path_factory.mktemp("tree"), "", changed=changed))


def places(text: str, tree: RepoTree) -> list[tuple[str, str, int, int]]:
    return [(span.path, span.qualname, span.start_line, span.end_line) for span in named_spans(text, tree)]


@pytest.mark.parametrize(
    ("text", "qualname"),
    [
        ("It is in `shop/boxes.py::ship`.", "ship"),
        ("See shop/boxes.py::Box.weigh.", "Box.weigh"),
        ("(./shop/boxes.py::Box::weigh)", "Box.weigh"),
        ("/workspace/shop/boxes.py:8, or so", "Box.weigh"),
        ("shop/boxes.py:11-12: there", "ship"),
        ("shop/boxes.py::Box", "Box"),
        ("shop/boxes.py:5-8", "Box"),
        ("shop/boxes.py:1-12", ""),
    ],
)
def test_a_place_that_an_answer_names_is_told(tree, text, qualname):
    [(path, name, *_)] = places(text, tree)
    assert (path, name) == ("shop/boxes.py", qualname)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shop/boxes.py",
        "boxes.py::ship",
        "shop/boxes.py::sink",
        "shop/boxes.py:13",
        "shop/boxes.py:0",
        "shop/boxes.py:9-8",
        "shop/boxes.py:11-13",
        "other.py:1",
        "at 12:30 or 10:20-11",
    ],
)
def test_what_is_not_there_is_no_place(tree, text):
    assert places(text, tree) == []


def test_places_keep_the_order_of_the_answer_and_stand_once(tree):
    text = "read-me.txt:2, then shop/boxes.py::ship (shop/boxes.py:12), then read-me.txt:1-3"
    assert places(text, tree) == [("read-me.txt", "", 1, 3), ("shop/boxes.py", "ship", 11, 12)]


@given(st.text(alphabet="shop/boxes.py::ship:1-2 \n`Box.weigh", max_size=100))
def test_of_any_text_each_place_is_a_node_of_the_tree(tree, text):
    known = {(node.path, node.start_line, node.end_line) for path in tree.files for node in tree.nodes(path)}
    assert {(path, start, end) for path, _, start, end in places(text, tree)} <= known
