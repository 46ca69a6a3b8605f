"""The contract of reading: a question over a snapshot, what may be spent on it, and what was found.

No caller sees which tier has read, except in the trace.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

from pipeline.context.failures import Evidence

# direct: everything at once; fold: everything, part by part; lexical: what words choose.
Tier = Literal["direct", "fold", "lexical", "descent", "actions", "recursive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for: a text, and what failing tests say where there are any."""

    text: str
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What was used of a budget."""

    num_calls: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    num_cached_calls: int = 0  # answered without the model, from what was asked before
    seconds: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            num_calls=self.num_calls + other.num_calls,
            num_prompt_tokens=self.num_prompt_tokens + other.num_prompt_tokens,
            num_completion_tokens=self.num_completion_tokens + other.num_completion_tokens,
            num_cached_calls=self.num_cached_calls + other.num_cached_calls,
            seconds=self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A place that matters for a query. Lines count from 1, both ends included."""

    path: str
    qualname: str  # "" for what lies at module level, and for files without definitions
    start_line: int
    end_line: int
    score: float  # compares spans of one answer, nothing else
    evidence: tuple[str, ...] = ()
    node_id: str = ""


class Ending(enum.StrEnum):
    """How reading came to its end."""

    COMPLETE = "complete"
    BUDGET_SPENT = "budget_spent"
    DEADLINE = "deadline"
    GAVE_UP = "gave_up"  # too many errors in a row
    NOTHING_READ = "nothing_read"  # so nothing can be said


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `localise` found: spans, best first."""

    spans: tuple[Span, ...]
    tier: Tier
    coverage: float  # share of the leaves that were to be scored and were
    spend: Spend
    ending: Ending = Ending.COMPLETE


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What `answer` and `summarise` found; a best effort where the ending is not COMPLETE."""

    text: str  # "" only where the ending says why
    tier: Tier
    spend: Spend
    ending: Ending
    spans: tuple[Span, ...] = ()  # what was read for it, or what it names
    warnings: tuple[str, ...] = field(default=())
