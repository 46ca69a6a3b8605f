"""Puts the words' scores and the model's together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

# Of a standard deviation of the model's scores, where the best BM25 score is 1. Chosen on the development
# part of tests/benchmarks/context.
_MODEL_WEIGHT = 0.3


def combined(priors: Mapping[str, float], judged: Mapping[str, float]) -> dict[str, float]:
    """Return prior and standardised judgement of each key added; what was not judged counts as average.

    Ranks are not enough here: what no word leads to has no rank among the words, and would come after all
    that the words found, however sure the model is.
    """
    values = list(judged.values())
    spread = statistics.pstdev(values) if values else 0.0
    average = statistics.fmean(values) if values else 0.0
    keys = dict.fromkeys([*priors, *judged])
    return {
        key: priors.get(key, 0.0)
        + (_MODEL_WEIGHT * (judged[key] - average) / spread if key in judged and spread else 0.0)
        for key in keys
    }
