"""The numbers of a run's report: what each depth cost, which limits were reached, where the time went."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.core import VerdictKind
from pipeline.runs import CandidateRecord, RoundRecord, RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthCost:
    """What the drafts of one recurrence depth cost and brought."""

    recurrence_depth: int
    num_drafts: int
    num_refused: int
    num_tested: int
    num_resolved: int
    num_tokens: int  # completion tokens
    draft_seconds: float
    test_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens for each second of drafting, all drafts of a batch together."""
        return self.num_tokens / self.draft_seconds if self.draft_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitUse:
    """How much of one limit was used."""

    name: str
    used: float
    limit: float
    unit: str = ""

    @property
    def is_reached(self) -> bool:
        """Whether nothing was left."""
        return self.used >= self.limit


def candidates_of(record: RunRecord) -> list[CandidateRecord]:
    """Return the candidates of all rounds, in order."""
    return [candidate for round_record in record.rounds for candidate in round_record.candidates]


def num_prompt_tokens(record: RunRecord) -> int:
    """Return the tokens that the model read: each prompt of a round once, however many drafts it got.

    What two prompts have in common counts twice, though an engine with a prefix cache reads it once. Those of
    a reading are in it.
    """
    tests = record.reproduction.drafts[:1] if record.reproduction else []
    by_prompt = {
        (round_.number, entry.prompt_number): entry.completion.num_prompt_tokens
        for round_ in record.rounds
        for entry in round_.candidates
        if entry.prompt_number is not None
    }
    read = record.reading.num_prompt_tokens if record.reading else 0
    return read + sum(draft.completion.num_prompt_tokens for draft in tests) + sum(by_prompt.values())


def wall_seconds(record: RunRecord) -> float:
    """Return how long the run took: all its stages, without the pauses of a run that was resumed."""
    if record.seconds_by_stage:
        return sum(record.seconds_by_stage.values())
    return ((record.finished_at or datetime.now(UTC)) - record.started_at).total_seconds()


def cost_by_depth(record: RunRecord) -> list[DepthCost]:
    """Return one row for each depth that was drafted at, shallowest first.

    A round's drafting and testing seconds are wall time; where a round mixes depths they are shared out in
    proportion to its drafts' own times.
    """
    depths = sorted({c.candidate.recurrence_depth for c in candidates_of(record)})
    return [_cost(depth, record.rounds) for depth in depths]


def _cost(depth: int, rounds: Iterable[RoundRecord]) -> DepthCost:
    found: list[CandidateRecord] = []
    draft_seconds = test_seconds = 0.0
    for round_record in rounds:
        here = [c for c in round_record.candidates if c.candidate.recurrence_depth == depth]
        found += here
        draft_seconds += round_record.draft_seconds * _share(
            [c.completion.seconds for c in here], [c.completion.seconds for c in round_record.candidates]
        )
        test_seconds += round_record.test_seconds * _share(
            [c.verdict.wall_seconds for c in here if c.verdict],
            [c.verdict.wall_seconds for c in round_record.candidates if c.verdict],
        )
    return DepthCost(
        recurrence_depth=depth,
        num_drafts=len(found),
        num_refused=sum(bool(c.candidate.refused) for c in found),
        num_tested=sum(c.verdict is not None for c in found),
        num_resolved=sum(c.verdict is not None and c.verdict.kind is VerdictKind.RESOLVED for c in found),
        num_tokens=sum(c.completion.num_completion_tokens for c in found),
        draft_seconds=draft_seconds,
        test_seconds=test_seconds,
    )


def _share(part: list[float], whole: list[float]) -> float:
    if sum(whole) > 0:
        return sum(part) / sum(whole)
    return len(part) / len(whole) if whole else 0.0


def limit_uses(record: RunRecord) -> list[LimitUse]:
    """Return how much of each of the task's limits the run used."""
    limits, candidates = record.task.limits, candidates_of(record)
    return [
        LimitUse(name="wall time", used=wall_seconds(record), limit=limits.wall_seconds, unit="s"),
        LimitUse(name="rounds", used=len(record.rounds), limit=limits.num_rounds),
        LimitUse(name="drafts", used=len(record.completions), limit=limits.num_candidates),
        LimitUse(name="completion tokens", used=record.num_completion_tokens, limit=limits.num_tokens),
        LimitUse(
            name="recurrence depth",
            used=max((c.candidate.recurrence_depth for c in candidates), default=0),
            limit=limits.max_recurrence_depth,
        ),
    ]
