"""What the model is shown of a repository: a node's card, a chunk of code, a unit's body. Each has a name.

Names travel between machines, texts do not: whoever has the tree can write the text of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from pipeline.context.tree.card import skeleton
from pipeline.context.tree.node import Node
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit
from pipeline.text import clip

_CARD_CHILDREN = 40
_CARD_CHARS = 1500  # 400 tokens or so
_CHUNK_CHARS = 3000
_BODY_CHARS = 2400


Kind = Literal["card", "chunk", "body"]


class Piece(NamedTuple):
    """The name of a piece."""

    kind: Kind
    key: str  # of a node `path` or `path::qualname`, of a unit its place, of a chunk its first and last place
    node_id: str


def card_of(node: Node) -> Piece:
    """Return the name of a node's card."""
    return Piece("card", f"{node.path}::{node.qualname}" if node.qualname else node.path, node.node_id)


def body_of(unit: Unit) -> Piece:
    """Return the name of a unit's body."""
    return Piece("body", unit.place, unit.node.node_id)


def chunks_of(units: Sequence[Unit]) -> dict[Piece, tuple[Unit, ...]]:
    """Return units that follow each other in a folder, as many together as a prompt may have.

    A node's names alone often do not tell what its code does; a chunk is the cheapest piece that shows it.
    """
    found = {}
    for _, those in groupby(units, key=lambda unit: unit.node.path.rpartition("/")[0]):
        for chunk in _packed(those):
            key = chunk[0].place if len(chunk) == 1 else f"{chunk[0].place} to {chunk[-1].place}"
            found[Piece("chunk", key, chunk[0].node.node_id)] = chunk
    return found


def _packed(units: Iterator[Unit]) -> Iterator[tuple[Unit, ...]]:
    chunk: list[Unit] = []
    num_chars = 0
    for unit in units:
        size = min(len(unit.text), _BODY_CHARS)
        if chunk and num_chars + size > _CHUNK_CHARS:
            yield tuple(chunk)
            chunk, num_chars = [], 0
        chunk.append(unit)
        num_chars += size
    if chunk:
        yield tuple(chunk)


class Pieces:
    """The texts of the pieces of one tree."""

    def __init__(self, tree: RepoTree, units: Sequence[Unit]) -> None:
        self._tree = tree
        self._units = {unit.place: unit for unit in units}
        self._chunks = {chunk.key: those for chunk, those in chunks_of(units).items()}

    def text(self, piece: Piece) -> str:
        """Return what the model is shown.

        Raises:
            KeyError: the tree has no such piece.
        """
        if piece.kind == "body":
            return _body(self._units[piece.key])
        if piece.kind == "chunk":
            return "\n\n".join(map(_body, self._chunks[piece.key]))
        node = self._node(piece)
        return skeleton(self._tree, node, max_children=_CARD_CHILDREN)[:_CARD_CHARS]

    def _node(self, piece: Piece) -> Node:
        path = piece.key.partition("::")[0]
        if path not in self._tree.files:
            return self._tree.package(path)
        return next(node for node in self._tree.nodes(path) if node.node_id == piece.node_id)


def _body(unit: Unit) -> str:
    return f"{unit.place}\n{clip(unit.text, _BODY_CHARS).strip()}"
