"""Puts two rankings of functions together: what failing tests and words say, and what a reading found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.context.call_graph import CallGraph, Source, tie_broken
from pipeline.context.descent.fuse import reciprocal_ranks
from pipeline.context.symbols import source_lines
from pipeline.core import Suspect
from pipeline.snapshot import Snapshot

_HIGHEST = sum(reciprocal_ranks(["first"], ["first"]).values())  # of what is first in both


def combined(
    suspects: Sequence[Suspect],
    places: Mapping[str, Sequence[str]],
    snapshot: Snapshot,
    *,
    num_suspects: int,
) -> tuple[Suspect, ...]:
    """Return the suspects by their ranks in both rankings; a score of 1 is the first of both.

    `suspects` are all functions of the tree, best first: 0 is the score of those that nothing speaks against.
    `places` are a reading's, `path::qualname`, best first, each with what speaks for it. What is not written
    yet stays first. Of equals, what a higher ranked one calls comes first.
    """
    unwritten = [suspect for suspect in suspects if suspect.is_unwritten]
    known = {_key(suspect): suspect for suspect in suspects if not suspect.is_unwritten}
    by_place: dict[str, list[str]] = defaultdict(list)
    for key, suspect in known.items():
        by_place[_place(suspect)].append(key)
    flat = [key for key, suspect in known.items() if suspect.score > 0]
    scores = reciprocal_ranks(flat, [key for place in places for key in by_place.get(place, ())])
    order = sorted(scores, key=lambda key: -scores[key])[: 2 * num_suspects]  # the rest is not looked at
    order = tie_broken(order, scores, _call_graph(known, snapshot).nearness)
    return (*unwritten, *(_told(known[key], scores[key], places) for key in order))[:num_suspects]


def _told(suspect: Suspect, score: float, places: Mapping[str, Sequence[str]]) -> Suspect:
    read = (f"reading: {reason}" for reason in places.get(_place(suspect), ()))
    return replace(suspect, score=round(score / _HIGHEST, 4), evidence=(*suspect.evidence, *read))


def _call_graph(known: Mapping[str, Suspect], snapshot: Snapshot) -> CallGraph:
    def source_of(key: str) -> Source:
        suspect = known[key]
        lines = source_lines(snapshot.read_bytes(suspect.path))[suspect.start_line - 1 : suspect.end_line]
        return Source(suspect.path, suspect.qualname.rpartition(".")[2], "\n".join(lines))

    return CallGraph(source_of, snapshot.read_bytes)


def _key(suspect: Suspect) -> str:
    return f"{_place(suspect)}:{suspect.start_line}"  # a property and its setter share their place


def _place(suspect: Suspect) -> str:
    return f"{suspect.path}::{suspect.qualname}"
