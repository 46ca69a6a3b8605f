"""The places of a source that an answer names in its own words: what the source has not is no place."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.context.reading import Span
from pipeline.context.tree.node import Node
from pipeline.context.tree.repo_tree import RepoTree

# path::qualname, also as pytest writes a method, or path:line, or path:start-end
_PLACE = re.compile(r"([^\s`'\"()\[\]{}<>,;:]+)(?:((?:::\w[\w.]*)+)|:(\d{1,9})(?:-(\d{1,9}))?)")
_ROOTS = ("./", "/workspace/")  # as a cell may see the repository's folder
_EVIDENCE = ("the answer names it",)


def named_spans(text: str, tree: RepoTree) -> tuple[Span, ...]:
    """Return the places that a text names and the tree has, each once, in the order of the text.

    A place is the smallest node that holds what is named.
    """
    nodes = {(node.path, node.node_id): node for node in _named(text, tree)}
    return tuple(_span(node, 1 / number) for number, node in enumerate(nodes.values(), 1))


def _named(text: str, tree: RepoTree) -> Iterator[Node]:
    for path, qualname, start, end in _PLACE.findall(text):
        path = _relative(path)
        if path not in tree.files:
            continue
        nodes = tree.nodes(path)
        if qualname:
            name = qualname.removeprefix("::").replace("::", ".").rstrip(".")
            found = [node for node in nodes if node.kind != "window" and node.qualname == name]
        else:
            first, last = int(start), int(end or start)
            found = [node for node in nodes if node.start_line <= first <= last <= node.end_line]
        yield from found[-1:]  # each stands before its children


def _relative(path: str) -> str:
    for root in _ROOTS:
        path = path.removeprefix(root)
    return path


def _span(node: Node, score: float) -> Span:
    return Span(
        path=node.path,
        qualname="" if node.kind == "window" else node.qualname,
        start_line=node.start_line,
        end_line=node.end_line,
        score=score,
        evidence=_EVIDENCE,
        node_id=node.node_id,
    )
