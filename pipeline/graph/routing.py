"""Where to go next: pure functions of what has happened so far. The model never decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.config import PlannerSection, Rung
from pipeline.core import Limits, Task, VerdictKind
from pipeline.graph.state import Progress
from pipeline.policy.choice import Choice, choose_rung
from pipeline.runs import CandidateRecord, RunRecord

Next = Literal["select", "revise", "escalate", "give_up"]

_NODES_PER_ROUND = 8  # pack, draft, apply, test, combine, judge, revise or escalate, stack
_NODES_OUTSIDE_ROUNDS = 6  # prepare, reproduce, scaffold, localise, select or give_up, report


def after_reproduce(progress: Progress) -> Literal["scaffold", "give_up"]:
    """Return the next node: without a failing test there is nothing to aim at."""
    baseline = progress.record.baseline
    return "scaffold" if baseline and baseline.fail_to_pass else "give_up"


def after_localise(progress: Progress) -> Literal["pack", "give_up"]:
    """Return the next node: without a suspect there is nothing to draft."""
    return "pack" if progress.record.suspects else "give_up"


def after_judge(progress: Progress, ladder: Sequence[Rung]) -> Next:
    """Return the next node after a round."""
    if resolved(progress):
        return "select"
    if progress.limit or progress.next_rung is None:
        return "give_up"
    rung = ladder[progress.next_rung.number]
    return "revise" if rung.feedback and progress.attempts else "escalate"


def next_rung(task: Task, planner: PlannerSection, progress: Progress) -> Choice | None:
    """Return the rung that the policy climbs next, or None at the ladder's end."""
    rounds = progress.record.rounds
    return choose_rung(
        planner.ladder,
        used={round_.rung_number for round_ in rounds},
        has_attempts=bool(progress.attempts),
        stats=progress.arm_stats,
        seed=f"{task.task_id}:{planner.seed}:{len(rounds)}",
    )


def resolved(progress: Progress) -> list[CandidateRecord]:
    """Return this round's candidates that resolve the task, in drafting order."""
    return [r for r in progress.round.candidates if r.verdict and r.verdict.kind is VerdictKind.RESOLVED]


def limit_reached(record: RunRecord, limits: Limits, *, seconds_used: float, num_rungs: int) -> str:
    """Return the name of a limit that allows no further round, or an empty string."""
    if seconds_used >= limits.wall_seconds:
        return "wall_seconds"
    if len(record.completions) >= limits.num_candidates:
        return "num_candidates"
    if record.num_completion_tokens >= limits.num_tokens:
        return "num_tokens"
    # A ladder that ends by itself is no limit.
    return "num_rounds" if limits.num_rounds <= len(record.rounds) < num_rungs else ""


def num_candidates(record: RunRecord) -> int:
    """Return how many candidates were drafted in all rounds."""
    return sum(r.prompt_number is not None for round_ in record.rounds for r in round_.candidates)


def recursion_limit(ladder: Sequence[Rung]) -> int:
    """Return how many nodes the longest walk along this ladder visits, and a few to spare."""
    return _NODES_PER_ROUND * len(ladder) + _NODES_OUTSIDE_ROUNDS + 10
