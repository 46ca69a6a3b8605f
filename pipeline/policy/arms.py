"""Arms of the escalation policy: a rung's settings by name, and what came of the rounds that used them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from pipeline.config import Rung
from pipeline.core import VerdictKind
from pipeline.runs import RoundRecord, RunRecord


class RoundOutcome(BaseModel):
    """What one finished round of one run was worth."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: str
    started_at: str  # of the run: ids are unique within one folder of runs alone
    task_id: str
    model: str
    arm: str
    position: int  # rounds of the run before this one
    is_solved: bool
    num_candidates: int
    num_tokens: int  # completion tokens
    seconds: float  # drafting and testing

    @property
    def key(self) -> tuple[str, str, int]:
        """The same for the same round, however often its run is added."""
        return self.run_id, self.started_at, self.position


class Tally(BaseModel):
    """Rounds of one arm, added up."""

    model_config = ConfigDict(frozen=True)

    num_tried: int = 0
    num_solved: int = 0
    num_tokens: int = 0

    def plus(self, outcome: RoundOutcome) -> Tally:
        """Return the tally with one more round."""
        return Tally(
            num_tried=self.num_tried + 1,
            num_solved=self.num_solved + outcome.is_solved,
            num_tokens=self.num_tokens + outcome.num_tokens,
        )


class ArmStats(BaseModel):
    """An arm's rounds, those that opened a run apart: what a later round meets is harder."""

    model_config = ConfigDict(frozen=True)

    first: Tally = Tally()
    later: Tally = Tally()

    def tally(self, *, is_first: bool) -> Tally:
        """Return the rounds of one kind."""
        return self.first if is_first else self.later


def arm_name(rung: Rung) -> str:
    """Return the arm that a rung is: every setting that changes what a round does, in a fixed order.

    Two rungs with the same settings are one arm, in whatever ladder they stand.
    """
    parts = [
        f"{rung.strategy} {rung.num_candidates}/{rung.num_suspects}",
        f"depth {rung.recurrence_depth}",
        f"T {rung.temperature:g}",
        rung.context,
        *([rung.decoding] if rung.decoding != "sample" else []),
        *(["feedback"] if rung.feedback else []),
        *(["strong"] if rung.model == "strong" else []),
    ]
    return ", ".join(parts)


def outcomes_of(record: RunRecord) -> list[RoundOutcome]:
    """Return what each tested round of a run came to; a round that a limit cut off says nothing."""
    return [
        RoundOutcome(
            run_id=record.run_id,
            started_at=record.started_at.isoformat(),
            task_id=record.task.task_id,
            model=record.model,
            arm=arm_name(round_.rung),
            position=position,
            is_solved=_is_solved(round_),
            num_candidates=len(round_.candidates),
            num_tokens=sum(c.completion.num_completion_tokens for c in round_.candidates),
            seconds=round_.draft_seconds + round_.test_seconds,
        )
        for position, round_ in enumerate(record.rounds)
        if _is_told(round_)
    ]


def stats_of(ladder: Sequence[Rung], outcomes: Iterable[RoundOutcome]) -> list[ArmStats]:
    """Return the statistics of each rung of the ladder."""
    by_arm = {arm_name(rung): ArmStats() for rung in ladder}
    for outcome in outcomes:
        if outcome.arm in by_arm:
            stats = by_arm[outcome.arm]
            kind = "first" if outcome.position == 0 else "later"
            by_arm[outcome.arm] = stats.model_copy(update={kind: getattr(stats, kind).plus(outcome)})
    return [by_arm[arm_name(rung)] for rung in ladder]


def _is_solved(round_: RoundRecord) -> bool:
    return any(c.verdict and c.verdict.kind is VerdictKind.RESOLVED for c in round_.candidates)


def _is_told(round_: RoundRecord) -> bool:
    """Say whether the round got as far as its verdicts."""
    untested = [c for c in round_.candidates if c.verdict is None and not c.candidate.refused]
    infra = [c for c in round_.candidates if c.verdict and c.verdict.kind is VerdictKind.INFRA_ERROR]
    return _is_solved(round_) or bool(round_.candidates and not untested and not infra)
