"""What passes between a generator and an engine: which samples are wanted, and what is reported back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.core import Completion


class SampleKey(NamedTuple):
    """One sample of one prompt of a batch."""

    prompt: int  # position in the batch
    sample: int  # drawn with seed + sample


@dataclass(frozen=True, slots=True)
class Event:
    """How far a batch has come: sent for each sample that is complete, and every second between them."""

    num_tokens: int  # completion tokens of all samples together, unfinished ones included
    key: SampleKey | None = None  # the sample that is complete now
    completion: Completion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounters:
    """What an engine has done since it started."""

    num_requests: int = 0  # samples finished
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    num_running: int = 0  # samples waiting or running now
    running_seconds: float = 0.0  # with at least one sample in the engine
    idle_seconds: float = 0.0  # since the last sample ended or a client was last heard of; 0 while one runs
    uptime_seconds: float = 0.0

    @classmethod
    def of_all(cls, counters: Sequence[EngineCounters]) -> EngineCounters:
        """Return the counters of several engines together: counts add up, clocks run for the busiest."""
        return cls(
            num_requests=sum(each.num_requests for each in counters),
            num_prompt_tokens=sum(each.num_prompt_tokens for each in counters),
            num_completion_tokens=sum(each.num_completion_tokens for each in counters),
            num_running=sum(each.num_running for each in counters),
            running_seconds=max(each.running_seconds for each in counters),
            idle_seconds=min(each.idle_seconds for each in counters),
            uptime_seconds=max(each.uptime_seconds for each in counters),
        )

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per running second."""
        return self.num_completion_tokens / self.running_seconds if self.running_seconds else 0.0
