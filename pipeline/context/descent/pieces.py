"""What the model is shown of a repository: a card of a node, or the body of a unit. Each has a short name.

Names travel between machines, texts do not: whoever has the tree can write the text of a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.context.tree.card import skeleton
from pipeline.context.tree.node import Node
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit

_CARD_CHILDREN = 40
_CARD_CHARS = 1500  # 400 tokens or so
_BODY_CHARS = 2400


class Piece(NamedTuple):
    """The name of a piece."""

    kind: Literal["card", "body"]
    key: str  # of a node `path` or `path::qualname`, of a unit its place
    node_id: str


def card_of(node: Node) -> Piece:
    """Return the name of a node's card."""
    return Piece("card", f"{node.path}::{node.qualname}" if node.qualname else node.path, node.node_id)


def body_of(unit: Unit) -> Piece:
    """Return the name of a unit's body."""
    return Piece("body", unit.place, unit.node.node_id)


class Pieces:
    """The texts of the pieces of one tree."""

    def __init__(self, tree: RepoTree, units: Sequence[Unit]) -> None:
        self._tree = tree
        self._units = {unit.place: unit for unit in units}

    def text(self, piece: Piece) -> str:
        """Return what the model is shown.

        Raises:
            KeyError: the tree has no such piece.
        """
        if piece.kind == "body":
            return _body(self._units[piece.key])
        node = self._node(piece)
        return skeleton(self._tree, node, max_children=_CARD_CHILDREN)[:_CARD_CHARS]

    def _node(self, piece: Piece) -> Node:
        path = piece.key.partition("::")[0]
        if path not in self._tree.files:
            return self._tree.package(path)
        return next(node for node in self._tree.nodes(path) if node.node_id == piece.node_id)


def _body(unit: Unit) -> str:
    text = unit.text.strip("\n")
    if len(text) > _BODY_CHARS:
        half = _BODY_CHARS // 2
        text = f"{text[:half]}\n...\n{text[-half:]}"
    return f"{unit.place}\n{text}"
