"""What a variant came to: solved by drafts and by tokens, recall@k, over-fit rate, cost of a solved task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline import stats
from pipeline.bench.recipe import injected
from pipeline.bench.score import Score
from pipeline.compare import COSTS, Batch, Result, cost_of
from pipeline.core import Task
from pipeline.stats import RECALL_AT, SOLVED_AT, SOLVED_WITHIN, Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The numbers of one variant. Only tasks that ended solved or unsolved count."""

    num_tasks: int
    num_solved: int
    excluded: Mapping[str, int]  # tasks without a judgement, by outcome: invalid, infra, missing
    solved: Estimate  # share of the tasks
    # Plain: the task is solved by one of the first k drafts of its run. A run stops at its first success, so
    # the unbiased estimator, which needs every draft judged, is not defined for it.
    solved_at: Mapping[int, Estimate]
    # By the completion tokens that were drafted up to the winner; empty where a row does not say them.
    solved_within: Mapping[int, Estimate]
    recall_at: Mapping[
        int, Estimate
    ]  # all functions of the bug are among the first k suspects; own search only
    per_task: Mapping[str, Estimate]
    per_solved: Mapping[str, Estimate]  # sum over all tasks / solved ones
    by_group: Mapping[str, Estimate]  # share solved of the parts and kinds: "split dev", "sites single", ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A variant against the baseline, on the tasks that both judged."""

    num_shared: int
    num_gained: int
    num_lost: int
    p_value: float  # exact McNemar
    solved: Estimate  # difference of the shares
    costs: Mapping[str, Estimate] = field(default_factory=dict)  # differences per task


@dataclass(frozen=True, slots=True, kw_only=True)
class OverFit:
    """What patches that pass the visible tests are worth by those that were held back."""

    num_solved: int  # by the visible tests
    num_checked: int  # of them, those with tests held back
    num_over_fit: int  # of these, those that fail one
    rate: Estimate  # num_over_fit / num_checked


def figures(batch: Batch, tasks: Sequence[Task], *, has_own_search: bool, seed: int = 0) -> Figures:
    """Return the figures of a variant's batch."""
    judged = [(task, result) for task in tasks if (result := _judged(batch, task)) is not None]
    results = [result for _, result in judged]
    solved = [float(result.is_solved) for result in results]
    ranks = [_rank(task, result) for task, result in judged] if has_own_search else []
    return Figures(
        num_tasks=len(judged),
        num_solved=int(sum(solved)),
        excluded=Counter(_excluded(batch, task) for task in tasks if _judged(batch, task) is None),
        solved=stats.mean(solved, seed=seed),
        solved_at={k: stats.mean([_is_solved_in(r, k) for r in results], seed=seed) for k in SOLVED_AT},
        solved_within=_solved_within(results, seed),
        recall_at={
            k: stats.mean([float(hit) for hit in stats.recall_at_k(ranks, k)], seed=seed)
            for k in RECALL_AT
            if ranks
        },
        per_task={name: stats.mean(_values(results, name), seed=seed) for name in COSTS},
        per_solved={name: stats.ratio(_values(results, name), solved, seed=seed) for name in COSTS},
        by_group=_by_group(judged, seed),
    )


def against(batch: Batch, baseline: Batch, *, seed: int = 0) -> Against | None:
    """Return the comparison with the baseline, or None where no task was judged by both."""
    from pipeline.compare import compare
    from pipeline.exceptions import InputError

    try:
        found = compare(baseline, batch, seed=seed)
    except InputError:
        return None
    return Against(
        num_shared=found.num_shared,
        num_gained=len(found.gained),
        num_lost=len(found.lost),
        p_value=found.p_value,
        solved=found.solved.difference,
        costs={name: found.per_task[name].difference for name in COSTS},
    )


def over_fit(batch: Batch, scores: Sequence[Score]) -> OverFit:
    """Return the over-fit rate of a batch; `scores` are of its patches that have tests held back."""
    num_failing = sum(not score.resolved for score in scores)
    return OverFit(
        num_solved=sum(result.is_solved for result in batch.results.values()),
        num_checked=len(scores),
        num_over_fit=num_failing,
        rate=stats.proportion(num_failing, len(scores)),
    )


def _judged(batch: Batch, task: Task) -> Result | None:
    result = batch.results.get(task.task_id)
    return result if result is not None and result.outcome in ("solved", "unsolved") else None


def _excluded(batch: Batch, task: Task) -> str:
    result = batch.results.get(task.task_id)
    return "missing" if result is None else result.outcome


def _is_solved_in(result: Result, k: int) -> float:
    if not result.is_solved or result.solved_at is None:
        return 0.0
    # Written out as the run's drafts: all before the winner failed.
    return float(stats.solved_in_first([False] * min(result.solved_at, k) + [True], k))


def _solved_within(results: Sequence[Result], seed: int) -> dict[int, Estimate]:
    if any(result.is_solved and result.tokens_at is None for result in results):
        return {}

    def is_within(result: Result, num_tokens: int) -> bool:
        return result.is_solved and result.tokens_at is not None and result.tokens_at <= num_tokens

    return {
        num: stats.mean([float(is_within(result, num)) for result in results], seed=seed)
        for num in SOLVED_WITHIN
    }


def _rank(task: Task, result: Result) -> int | None:
    """Return where the last of the bug's functions stands among the suspects, from 1, if all are there."""
    wanted = {place.function for place in injected(task).gold}
    ranks = [rank for rank, suspect in enumerate(result.suspects, 1) if suspect in wanted]
    return max(ranks) if len(ranks) == len(wanted) else None


def _by_group(judged: Sequence[tuple[Task, Result]], seed: int) -> dict[str, Estimate]:
    groups: dict[str, Callable[[Task], str]] = {
        "split": lambda task: injected(task).split,
        "sites": lambda task: injected(task).recipe.sites,
        "repository": lambda task: injected(task).recipe.source.project,
    }
    members: dict[str, list[float]] = {}
    for group, of in groups.items():
        for task, result in judged:
            members.setdefault(f"{group} {of(task)}", []).append(float(result.is_solved))
    return {name: stats.mean(values, seed=seed) for name, values in sorted(members.items())}


def _values(results: Sequence[Result], name: str) -> list[float]:
    return [cost_of(result, name) for result in results]
