"""Progress events and logs: every action that a run reports, by name."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


class Action(enum.StrEnum):
    """What an event reports. The command line draws them; the run folder keeps them."""

    STAGE_STARTED = "stage_started"  # message says what begins; data: stage
    STAGE_FINISHED = "stage_finished"  # data: stage, seconds
    PROGRESS = "progress"  # data: stage, done, total, unit
    BASELINE = "baseline"  # data: num_failing, num_passing
    CANDIDATE_REFUSED = "candidate_refused"  # data: candidate_id, reason
    CANDIDATE_JUDGED = "candidate_judged"  # data: candidate_id, verdict, num_fixed, num_target
    ESCALATED = "escalated"  # data: round, and the rung's settings
    SOLVED = "solved"  # data: candidate_id
    GAVE_UP = "gave_up"  # data: reason
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, as a sentence and as data."""

    action: Action
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


Emit = Callable[[Event], None]


def discard(_event: Event) -> None:
    """Take an event and do nothing: the Emit of callers who do not watch."""
