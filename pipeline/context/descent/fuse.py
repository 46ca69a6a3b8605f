"""Puts two rankings of the same units together: the words' and the model's."""

from __future__ import annotations

from collections.abc import Sequence

_RANK_CONSTANT = 60  # Cormack, Clarke and Büttcher 2009: reciprocal rank fusion


def reciprocal_ranks(*rankings: Sequence[str], weights: Sequence[float] = ()) -> dict[str, float]:
    """Return a score for each key that is in a ranking: the sum of 1 / (60 + rank), weighted."""
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + weight / (_RANK_CONSTANT + rank)
    return scores
