"""Goes down the tree of a repository: the model judges cards of folders and files, then chunks, then bodies.

Which calls are made depends on the tree, the options and the answers; how many at most is known before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.context.descent.fuse import combined
from pipeline.context.descent.judge import Judge
from pipeline.context.descent.pieces import Piece, body_of, card_of, chunks_of
from pipeline.context.lexical import Ranked
from pipeline.context.tree.node import Node
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How wide a descent is.

    A tree of few units is judged whole: to judge its chunks first takes as many tokens, and finds less.
    """

    num_whole: int = 256  # units of a tree that is judged whole
    beam: int = 6  # folders and files that are opened at each level
    width: int = 24  # cards that are judged at each level
    num_chunks: int = 96  # chunks of what was opened that are judged
    num_bodies: int = 40  # units that are judged at the bottom
    num_lexical: int = 12  # of them the first of the lexical ranking, wherever they lie


class Descender:
    """Descends one tree for one query after another."""

    def __init__(self, tree: RepoTree, units: Sequence[Unit], options: Options) -> None:
        self._tree = tree
        self._options = options
        self._units = units
        self._chunks = chunks_of(units)
        self._with_units = {path for unit in units for path in _path_and_folders(unit.node.path)}

    @property
    def num_pieces_at_most(self) -> int:
        """How many cards, chunks and bodies are judged for a query at most.

        Of cards at each level, where it has more nodes than the beam opens, `width` or as many as there are.
        """
        num_units, num_chunks, options = len(self._units), len(self._chunks), self._options
        if self._is_judged_whole:
            return num_units
        cards = 0
        if num_chunks > options.num_chunks:
            cards = sum(min(num, options.width) for num in self._level_sizes() if num > options.beam)
        return cards + min(num_chunks, options.num_chunks) + options.num_bodies

    @property
    def _is_judged_whole(self) -> bool:
        return len(self._units) <= max(self._options.num_whole, self._options.num_bodies)

    def _level_sizes(self) -> list[int]:
        sizes, level = [], self._inner([self._tree.root])
        while level:
            sizes.append(len(level))
            level = self._inner(level)
        return sizes

    async def descend(self, ranked: Sequence[Ranked], judge: Judge) -> dict[str, float]:
        """Judge cards level by level, then chunks, then bodies; return the bodies' scores by their places."""
        options = self._options
        found = [one.unit for one in ranked]  # first, so that a budget which runs out cuts off the others
        if self._is_judged_whole:
            found, num_bodies = [*found, *self._units], len(self._units)
        else:
            priors, num_bodies = priors_of(ranked), options.num_bodies
            chunks = await self._opened(priors, judge)
            found = [*found[: options.num_lexical], *await self._in_chunks(chunks, priors, judge)]
        bodies = list({unit.place: unit for unit in found}.values())[:num_bodies]
        return await judge.judge([body_of(unit) for unit in bodies])

    async def _opened(self, priors: Mapping[str, float], judge: Judge) -> list[Piece]:
        """Return the chunks of the files that a descent opens; all where there are few."""
        if len(self._chunks) <= self._options.num_chunks:
            return list(self._chunks)
        frontier, opened = [self._tree.root], set()
        while frontier:
            frontier = await self._best(self._inner(frontier), priors, judge)
            opened |= {node.path for node in frontier if node.kind == "file"}
        return [chunk for chunk, units in self._chunks.items() if opened & {unit.node.path for unit in units}]

    def _inner(self, nodes: Iterable[Node]) -> list[Node]:
        return [
            child
            for node in nodes
            for child in self._tree.children(node)
            if child.kind in ("package", "file") and child.path in self._with_units
        ]

    async def _best(self, nodes: Sequence[Node], priors: Mapping[str, float], judge: Judge) -> list[Node]:
        if len(nodes) <= self._options.beam:
            return list(nodes)
        cards = {card_of(node): node for node in nodes}
        hopeful = sorted(cards, key=lambda card: -priors.get(card.key, 0.0))[: self._options.width]
        return [cards[card] for card in await self._sorted(hopeful, priors, judge)][: self._options.beam]

    async def _in_chunks(
        self, chunks: Sequence[Piece], priors: Mapping[str, float], judge: Judge
    ) -> list[Unit]:
        """Return the units of chunks, those of the best chunk first."""
        highest = {
            chunk.key: max(priors.get(unit.place, 0.0) for unit in self._chunks[chunk]) for chunk in chunks
        }
        hopeful = sorted(chunks, key=lambda chunk: -highest[chunk.key])[: self._options.num_chunks]
        return [unit for chunk in await self._sorted(hopeful, highest, judge) for unit in self._chunks[chunk]]

    async def _sorted(
        self, pieces: Sequence[Piece], priors: Mapping[str, float], judge: Judge
    ) -> list[Piece]:
        scores = combined(priors, await judge.judge(pieces))
        return sorted(pieces, key=lambda piece: -scores.get(piece.key, 0.0))


def is_inner(node: Node) -> bool:
    """Say whether a node is opened and not judged by its text."""
    return node.kind in ("package", "file") or (node.kind == "class" and bool(node.children))


def priors_of(ranked: Iterable[Ranked]) -> dict[str, float]:
    """Return the lexical score of each unit that has one, and of each node the highest below it."""
    priors: dict[str, float] = {}
    for one in ranked:
        node = one.unit.node
        scope = node.qualname.split(".")[:-1]
        above = [f"{node.path}::{'.'.join(scope[:depth])}" for depth in range(1, len(scope) + 1)]
        for key in (one.unit.place, *above, *_path_and_folders(node.path)):
            priors[key] = max(priors.get(key, 0.0), one.score)
    return priors


def _path_and_folders(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[:depth]) for depth in range(1, len(names) + 1)]
