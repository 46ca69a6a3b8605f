"""Statistics over many tasks: solved@k, recall@k, bootstrap intervals, and batches compared in pairs.

The unit that is drawn again is always the task, never the draft: drafts of one task are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.exceptions import InputError

SOLVED_AT = (1, 2, 4, 8, 16, 32)
SOLVED_WITHIN = (50, 100, 250, 500, 1000, 2000, 4000, 8000)  # completion tokens
RECALL_AT = (1, 3, 5, 10)
CONFIDENCE = 0.95
_NUM_RESAMPLES = 9_999
_BATCH = 1_000  # resamples at a time: bounds the memory for thousands of tasks


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; both ends are nan where fewer than two tasks bear it.

    All three are nan where a task's value is not known.
    """

    value: float
    low: float
    high: float
    num: int  # tasks

    def shown(self, scale: float = 1.0, sign: str = "") -> str:
        """Return value and interval for people, multiplied by `scale`; "-" stands for what there is not."""

        def number(value: float) -> str:
            digits = 0 if abs(value * scale) >= 1000 else 1
            return "-" if math.isnan(value) else f"{value * scale:{sign}.{digits}f}"

        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


def json_ready(value: Any) -> Any:
    """Return the value as JSON can carry it: null for what is not finite, texts as keys."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return value


def solved_in_first(resolves: Sequence[bool], k: int) -> bool:
    """Say whether one of a task's first k drafts resolves it: the plain definition.

    It holds for drafts in any order, greedy first and spread over suspects included, and for fewer than k.
    """
    return any(resolves[:k])


def solved_at_k(num_drafts: int, num_resolving: int, k: int) -> float:
    """Return the chance that k of n exchangeable drafts, c of which resolve, hold a resolving one.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374). Only for samples
    of one prompt at one temperature, all of them judged: a run that stops at the first success has no c.

    Raises:
        InputError: k is not from 1 to n, or c not from 0 to n.
    """
    if not 1 <= k <= num_drafts or not 0 <= num_resolving <= num_drafts:
        raise InputError(f"solved@{k} is not defined for {num_resolving} of {num_drafts} drafts")
    return 1.0 - math.comb(num_drafts - num_resolving, k) / math.comb(num_drafts, k)


def recall_at_k(ranks: Sequence[int | None], k: int) -> list[bool]:
    """Say of each task whether the place of its fault, counted from 1, is among the first k suspects."""
    return [rank is not None and rank <= k for rank in ranks]


def mean(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the mean over tasks with its percentile bootstrap interval."""
    sample = np.asarray(values, dtype=float)
    return _estimate((sample,), lambda x, axis: np.mean(x, axis=axis), seed)


def ratio(numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return sum / sum over tasks, such as tokens for each solved task, with its interval.

    It is infinite where all denominators are 0; so is an end of the interval where enough resamples are.
    """
    if not any(denominators):
        return Estimate(math.inf if any(numerators) else math.nan, math.nan, math.nan, len(numerators))
    samples = (np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float))

    def quotient(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        top, bottom = np.sum(x, axis=axis), np.sum(y, axis=axis)
        return np.divide(top, bottom, out=np.full_like(top, np.inf, dtype=float), where=bottom != 0)

    return _estimate(samples, quotient, seed)


def paired_difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the mean of second - first, task by task, with its paired bootstrap interval."""
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} values are no pairs")
    return mean(np.subtract(second, first).tolist(), seed=seed)


def proportion(num: int, total: int) -> Estimate:
    """Return num / total with its exact interval (Clopper and Pearson 1934).

    For small counts, where the bootstrap of none out of eight would be certain that there is none.
    """
    from scipy.stats import binomtest

    if not total:
        return Estimate(math.nan, math.nan, math.nan, 0)
    low, high = binomtest(num, total).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(num / total, float(low), float(high), total)


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test; 1 where no task differs."""
    from scipy.stats import binomtest

    num_discordant = num_only_first + num_only_second
    if num_discordant == 0:
        return 1.0
    return float(binomtest(num_only_first, num_discordant, 0.5).pvalue)


def _estimate(samples: tuple[np.ndarray, ...], statistic: Callable[..., Any], seed: int) -> Estimate:
    """Return the statistic with its percentile interval, over tasks drawn with replacement."""
    from scipy.stats import bootstrap

    num = len(samples[0])
    if num == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = float(statistic(*samples, axis=0))
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, num)
    if num == 1:
        return Estimate(value, math.nan, math.nan, 1)
    if all(np.all(sample == sample[0]) for sample in samples):  # nothing to draw from
        return Estimate(value, value, value, num)
    with np.errstate(
        invalid="ignore"
    ):  # the standard error, which is not used, of resamples that are infinite
        found = bootstrap(
            samples,
            statistic,
            paired=len(samples) > 1,
            n_resamples=_NUM_RESAMPLES,
            batch=_BATCH,
            confidence_level=CONFIDENCE,
            method="percentile",  # BCa is undefined where resamples agree, which solve rates often do
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Estimate(value, float(found.low), float(found.high), num)
