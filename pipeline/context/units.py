"""The units of a repository that are ranked: its functions, and the leaves that lie in no function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.context.failures import is_test_path
from pipeline.context.tree.node import Node
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Unit:
    """A function or a window outside of functions, with its text."""

    node: Node
    text: str

    @property
    def name(self) -> str:
        """The last part of the qualified name; "" for a window."""
        return self.node.qualname.rpartition(".")[2] if self.node.kind == "function" else ""

    @property
    def place(self) -> str:
        """Where it is, as `path::qualname`, or `path:first-last` for a window."""
        if self.node.kind == "function":
            return f"{self.node.path}::{self.node.qualname}"
        return f"{self.node.path}:{self.node.start_line}-{self.node.end_line}"


def units(tree: RepoTree, snapshot: Snapshot, *, with_tests: bool = True) -> Iterator[Unit]:
    """Yield the units of a tree, in its order. `with_tests=False` leaves out where no fault is looked for."""
    for path in sorted(tree.files):
        if with_tests or not is_test_path(path):
            yield from _of_file(tree, snapshot, path)


def _of_file(tree: RepoTree, snapshot: Snapshot, path: str) -> Iterator[Unit]:
    data = snapshot.read_bytes(path)
    end_of_function = 0
    for node in tree.nodes(path):  # each before its children
        if node.start_byte < end_of_function:
            continue  # within a function
        if node.kind == "function":
            end_of_function = node.end_byte
        elif node.children or node.start_byte == node.end_byte:
            continue
        yield Unit(node, data[node.start_byte : node.end_byte].decode("utf-8", "replace"))
