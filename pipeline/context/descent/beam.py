"""Goes down the tree of a repository: at each level the model judges cards, and the best nodes are opened.

Which calls are made depends on the tree, the options and the answers; how many at most is known before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.context.descent.judge import Judge
from pipeline.context.descent.pieces import body_of, card_of
from pipeline.context.lexical import LexicalIndex, Ranked
from pipeline.context.tree.node import Node
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How wide a descent is."""

    beam: int = 6  # nodes that are opened at each level
    width: int = 24  # cards that are judged at each level
    num_bodies: int = 24  # units that are judged at the bottom
    num_lexical: int = 12  # of them the first of the lexical ranking, wherever they lie


class Descender:
    """Descends one tree for one query after another."""

    def __init__(self, tree: RepoTree, index: LexicalIndex, options: Options) -> None:
        self._tree = tree
        self._options = options
        self._units = {(unit.node.path, unit.node.node_id): unit for unit in index.units}

    @property
    def num_pieces_at_most(self) -> int:
        """How many cards and bodies are judged for a query at most.

        That is the smaller of `width` and its nodes for each level which has more nodes than the beam opens,
        and `num_bodies`.
        """
        cards = sum(min(num, self._options.width) for num in self._level_sizes() if num > self._options.beam)
        return cards + min(len(self._units), self._options.num_bodies)

    def _level_sizes(self) -> list[int]:
        sizes, level = [], self._inner([self._tree.root])
        while level:
            sizes.append(len(level))
            level = self._inner(level)
        return sizes

    async def descend(self, ranked: Sequence[Ranked], judge: Judge) -> dict[str, float]:
        """Judge cards level by level, then bodies; return the scores of the bodies by their units' places."""
        priors = priors_of(ranked)
        frontier, found = [self._tree.root], [one.unit for one in ranked[: self._options.num_lexical]]
        while frontier:
            found += self._leaves(frontier, priors)
            frontier = await self._best(self._inner(frontier), priors, judge)
        bodies = list({unit.place: unit for unit in found}.values())[: self._options.num_bodies]
        return await judge.judge([body_of(unit) for unit in bodies])

    def _inner(self, nodes: Iterable[Node]) -> list[Node]:
        return [child for node in nodes for child in self._tree.children(node) if is_inner(child)]

    def _leaves(self, nodes: Iterable[Node], priors: Mapping[str, float]) -> list[Unit]:
        found = [
            unit
            for node in nodes
            for child in self._tree.children(node)
            if (unit := self._units.get((child.path, child.node_id)))
        ]
        return sorted(found, key=lambda unit: -priors.get(unit.place, 0.0))

    async def _best(self, nodes: Sequence[Node], priors: Mapping[str, float], judge: Judge) -> list[Node]:
        if len(nodes) <= self._options.beam:
            return list(nodes)
        cards = {card_of(node): node for node in nodes}
        hopeful = sorted(cards, key=lambda card: -priors.get(card.key, 0.0))[: self._options.width]
        scores = await judge.judge(hopeful)
        hopeful.sort(key=lambda card: -(scores.get(card.key, 0.0) + priors.get(card.key, 0.0)))
        return [cards[card] for card in hopeful[: self._options.beam]]


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
        folders = node.path.split("/")
        above += ["/".join(folders[:depth]) for depth in range(1, len(folders) + 1)]
        for key in (one.unit.place, *above):
            priors[key] = max(priors.get(key, 0.0), one.score)
    return priors
