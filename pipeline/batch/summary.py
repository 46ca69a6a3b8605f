"""What the rows of a batch come to together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.batch.outcome import InstanceOutcome, Row, busy_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts and costs of a batch."""

    num_solved: int
    num_unsolved: int
    num_invalid: int
    num_infra: int
    num_tokens: int  # completion tokens
    wall_seconds: float  # in which something was being worked on
    sandbox_seconds: float  # of all sandbox runs together

    @property
    def num_judged(self) -> int:
        """Return how many were searched to their end: those that a rate is about."""
        return self.num_solved + self.num_unsolved

    @property
    def solved_rate(self) -> float | None:
        """Return the share of the judged that is solved, or None where none is judged."""
        return self.num_solved / self.num_judged if self.num_judged else None

    def per_solved(self, total: float) -> float | None:
        """Return what each solved instance took of a total, or None where none is solved."""
        return total / self.num_solved if self.num_solved else None


def summarise(rows: Collection[Row]) -> Summary:
    """Return what the rows come to."""
    counts = Counter(row.outcome for row in rows)
    return Summary(
        num_solved=counts[InstanceOutcome.SOLVED],
        num_unsolved=counts[InstanceOutcome.UNSOLVED],
        num_invalid=counts[InstanceOutcome.INVALID],
        num_infra=counts[InstanceOutcome.INFRA],
        num_tokens=sum(row.num_tokens for row in rows),
        wall_seconds=busy_seconds(rows),
        sandbox_seconds=sum(row.sandbox_seconds for row in rows),
    )
