"""What passes between a generator and an engine: which samples are wanted, and what is reported back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.core import Completion


class SampleKey(NamedTuple):
    """One sample of one prompt of a batch."""

    prompt: int  # position in the batch
    sample: int  # drawn with seed + sample


@dataclass(frozen=True, slots=True)
class SampleFinished:
    """One sample is complete."""

    key: SampleKey
    completion: Completion


@dataclass(frozen=True, slots=True)
class TokensDrafted:
    """How far a batch has come, between two finished samples."""

    num_tokens: int  # completion tokens of all its samples together


Event = SampleFinished | TokensDrafted


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

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per running second."""
        return self.num_completion_tokens / self.running_seconds if self.running_seconds else 0.0
