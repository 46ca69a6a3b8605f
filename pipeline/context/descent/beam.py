"""Goes down the tree of a repository: at each level the model judges cards, and the best nodes are opened.

Which calls are made depends on the tree, the options and the answers; how many at most is known before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.context.descent.scorer import Score, YesNoScorer
from pipeline.context.lexical import LexicalIndex, Ranked
from pipeline.context.reading_trace import Trace
from pipeline.context.tree.card import skeleton
from pipeline.context.tree.node import Node
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit

_CARD_CHILDREN = 40
_CARD_CHARS = 1500  # 400 tokens or so
_BODY_CHARS = 2400


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How wide a descent is."""

    beam: int = 6  # nodes that are opened at each level
    width: int = 24  # cards that are judged at each level
    num_bodies: int = 24  # units that are judged at the bottom
    num_lexical: int = 12  # of them the first of the lexical ranking, wherever they lie


@dataclass(slots=True)
class Descent:
    """What a descent saw: scores by node id, and the units whose bodies were judged."""

    cards: dict[str, Score] = field(default_factory=dict)
    bodies: dict[str, Score] = field(default_factory=dict)
    judged: list[Unit] = field(default_factory=list)


class Descender:
    """Descends one tree for one query after another."""

    def __init__(self, tree: RepoTree, index: LexicalIndex, scorer: YesNoScorer, options: Options) -> None:
        self._tree = tree
        self._scorer = scorer
        self._options = options
        self._units = {(unit.node.path, unit.node.node_id): unit for unit in index.units}

    @property
    def num_calls_at_most(self) -> int:
        """How many calls of the model a query takes at most."""
        cards = sum(min(num, self._options.width) for num in self._level_sizes() if num > self._options.beam)
        bodies = min(len(self._units), self._options.num_bodies)
        return self._scorer.calls_per_piece * (cards + bodies)

    def _level_sizes(self) -> list[int]:
        sizes, level = [], self._inner([self._tree.root])
        while level:
            sizes.append(len(level))
            level = self._inner(level)
        return sizes

    async def descend(self, query: str, ranked: Sequence[Ranked], trace: Trace, parent: int) -> Descent:
        """Judge cards level by level, then bodies.

        Raises:
            GeneratorError: the engine failed.
        """
        seen = Descent()
        priors = _priors(self._tree, ranked)
        frontier, found = [self._tree.root], [one.unit for one in ranked[: self._options.num_lexical]]
        while frontier:
            found += self._leaves(frontier, priors)
            inner = self._inner(frontier)
            frontier = await self._best(query, inner, priors, seen, trace, parent)
        bodies = _first(found, self._options.num_bodies)
        scores = await self._scorer.scores(query, [_body(unit) for unit in bodies])
        for unit, score in zip(bodies, scores, strict=True):
            seen.bodies[unit.place] = score
            trace.add("score", f"{unit.place}: {_said(score)}", parent=parent, node_id=unit.node.node_id)
        seen.judged = bodies
        return seen

    def _inner(self, nodes: Iterable[Node]) -> list[Node]:
        return [child for node in nodes for child in self._tree.children(node) if self._is_inner(child)]

    def _is_inner(self, node: Node) -> bool:
        return node.kind in ("package", "file") or (node.kind == "class" and bool(node.children))

    def _leaves(self, nodes: Iterable[Node], priors: Mapping[str, float]) -> list[Unit]:
        found = [
            unit
            for node in nodes
            for child in self._tree.children(node)
            if (unit := self._units.get((child.path, child.node_id)))
        ]
        return sorted(found, key=lambda unit: -priors.get(unit.place, 0.0))

    async def _best(
        self,
        query: str,
        nodes: Sequence[Node],
        priors: Mapping[str, float],
        seen: Descent,
        trace: Trace,
        parent: int,
    ) -> list[Node]:
        if len(nodes) <= self._options.beam:
            return list(nodes)
        hopeful = sorted(nodes, key=lambda node: -priors.get(_key(node), 0.0))[: self._options.width]
        cards = [_card(self._tree, node) for node in hopeful]
        scores = await self._scorer.scores(query, cards)
        for node, score in zip(hopeful, scores, strict=True):
            seen.cards[_key(node)] = score
            trace.add("score", f"{_key(node)}: {_said(score)}", parent=parent, node_id=node.node_id)
        order = sorted(
            zip(hopeful, scores, strict=True),
            key=lambda pair: -((pair[1].value or 0.0) + priors.get(_key(pair[0]), 0.0)),
        )
        return [node for node, _ in order[: self._options.beam]]


def _priors(tree: RepoTree, ranked: Iterable[Ranked]) -> dict[str, float]:
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


def _key(node: Node) -> str:
    return f"{node.path}::{node.qualname}" if node.qualname else node.path


def _card(tree: RepoTree, node: Node) -> str:
    return skeleton(tree, node, max_children=_CARD_CHILDREN)[:_CARD_CHARS]


def _body(unit: Unit) -> str:
    text = unit.text.strip("\n")
    if len(text) > _BODY_CHARS:
        half = _BODY_CHARS // 2
        text = f"{text[:half]}\n...\n{text[-half:]}"
    return f"{unit.place}\n{text}"


def _first(units: Iterable[Unit], num: int) -> list[Unit]:
    return list({unit.place: unit for unit in units}.values())[:num]


def _said(score: Score) -> str:
    return "no answer" if score.value is None else f"{score.value:+.2f}"
