"""Partial candidates: which of them to lay over each other, and on which the next drafts may go on.

Pure functions over candidates that repair some of the failing tests and break none. Everything is decided by
what they repair, by their size, and by the order in which they were drafted: equal input, equal choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from pipeline.change import Change, merged, num_changed_lines

_MAX_KEPT = 16
_MAX_SEEDS = 4  # partial candidates that a combination is begun with


class Partial(BaseModel):
    """A candidate that repairs some of the failing tests and breaks none."""

    candidate_id: str
    change: Change
    fixed: frozenset[str]  # the failing tests that pass with it


@dataclass(frozen=True)
class Combination:
    """Partial candidates that together should repair more than each alone."""

    parents: tuple[str, ...]
    change: Change
    fixed: frozenset[str]  # what they repair one by one


def ranked(partials: Sequence[Partial]) -> list[Partial]:
    """Return those that are worth keeping: most repaired first, then the smallest, then the oldest."""
    order = sorted(partials, key=lambda p: (-len(p.fixed), num_changed_lines(p.change)))
    return order[:_MAX_KEPT]


def combinations(partials: Sequence[Partial], *, max_num: int) -> list[Combination]:
    """Return what to try together, most promising first: greedy set covers over the repaired tests.

    Each begins with one of the best candidates and takes the one that adds most, as long as one adds
    something and touches other lines.
    """
    order = ranked(partials)
    found: dict[frozenset[str], Combination] = {}
    for seed in order[:_MAX_SEEDS]:
        combination = _cover(seed, order)
        most_of_one = max(len(p.fixed) for p in order if p.candidate_id in combination.parents)
        if len(combination.fixed) > most_of_one:
            found.setdefault(frozenset(combination.parents), combination)
    most = sorted(found.values(), key=lambda c: (-len(c.fixed), num_changed_lines(c.change)))
    return most[:max_num]


def next_footing(partials: Sequence[Partial], *, last: str) -> Partial | None:
    """Return the candidate on whose tree the next drafts go on; None: on the base.

    `last` names the one that the round before stood on, if any: it gets every other round, so that a repair
    of the wrong kind cannot hold up the search.
    """
    best = next(iter(ranked(partials)), None)
    return None if best is None or best.candidate_id == last else best


def _cover(seed: Partial, others: Sequence[Partial]) -> Combination:
    combination = Combination((seed.candidate_id,), seed.change, seed.fixed)
    while True:
        following = max(_extended(combination, others), key=lambda c: len(c.fixed), default=None)
        if following is None:
            return combination
        combination = following


def _extended(combination: Combination, others: Sequence[Partial]) -> Iterator[Combination]:
    for other in others:
        change = merged([combination.change, other.change])
        if change is not None and other.fixed - combination.fixed:
            parents = (*combination.parents, other.candidate_id)
            yield Combination(parents, change, combination.fixed | other.fixed)
