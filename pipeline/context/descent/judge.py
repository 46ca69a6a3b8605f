"""Has pieces of a repository scored in bounded batches, within a purse, and accounts for each.

A batch that fails loses its pieces' scores and nothing else: they keep what the words say of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.context.descent.pieces import Piece
from pipeline.context.descent.scorer import Score
from pipeline.context.reading import Ending, Spend
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import BudgetSpentError, DeadlineError, Purse
from pipeline.exceptions import GeneratorError, InputError
from pipeline.text import count

_BATCH = 12  # pieces, each of one to three prompts; whole chunks of a reading worker
_NUM_IN_FLIGHT = 2  # batches for each that is worked on: one is computed while the next one waits


class Scorer(Protocol):
    """Scores pieces, here or on other machines."""

    @property
    def calls_per_piece(self) -> int:
        """How many calls of the model one piece takes."""
        ...

    @property
    def num_parallel(self) -> int:
        """How many batches are worked on side by side."""
        ...

    async def count_tokens(self, query: str, pieces: Sequence[Piece]) -> int:
        """Return how many tokens the calls for these pieces take, answers included.

        Raises:
            GeneratorError: the engine failed.
        """
        ...

    async def scores(self, query: str, pieces: Sequence[Piece]) -> list[Score]:
        """Return a score for each piece, in order; one that is lost says why in its `error`.

        Raises:
            GeneratorError: the engine failed.
        """
        ...


@dataclass(slots=True)
class Judge:
    """Judges for one query. `ending` says what cut it short, if anything."""

    query: str
    scorer: Scorer
    purse: Purse
    trace: Trace
    parent: int
    ending: Ending = Ending.COMPLETE
    num_wanted: int = 0
    num_judged: int = 0
    spend: Spend = field(default_factory=Spend)

    @property
    def coverage(self) -> float:
        """The share of the pieces that have a score."""
        return self.num_judged / self.num_wanted if self.num_wanted else 1.0

    async def judge(self, pieces: Sequence[Piece]) -> dict[str, float]:
        """Return the scores of the pieces that got one, by key."""
        self.num_wanted += len(pieces)
        slots = asyncio.Semaphore(_NUM_IN_FLIGHT * self.scorer.num_parallel)
        batches = [pieces[start : start + _BATCH] for start in range(0, len(pieces), _BATCH)]

        async def one(batch: Sequence[Piece]) -> dict[str, float]:
            async with slots:
                return await self._batch(batch)

        found: dict[str, float] = {}
        for scores in await asyncio.gather(*map(one, batches)):
            found |= scores
        self.num_judged += len(found)
        return found

    async def _batch(self, batch: Sequence[Piece]) -> dict[str, float]:
        try:
            async with asyncio.timeout(self.purse.remaining().seconds):
                scores = await self._paid(batch)
        except BudgetSpentError as exc:
            return self._cut(Ending.BUDGET_SPENT, exc)
        except (DeadlineError, TimeoutError) as exc:
            return self._cut(Ending.DEADLINE, exc)
        except (GeneratorError, InputError) as exc:
            if isinstance(exc, InputError) and len(batch) > 1:  # one is too long: the others need not suffer
                alone = [await self._batch([piece]) for piece in batch]
                return {key: value for scores in alone for key, value in scores.items()}
            self.trace.add("error", f"{count(len(batch), 'piece')} not judged: {exc}", parent=self.parent)
            return {}
        return self._told(batch, scores)

    async def _paid(self, batch: Sequence[Piece]) -> list[Score]:
        num_calls = len(batch) * self.scorer.calls_per_piece
        held = self.purse.reserve(num_calls, await self.scorer.count_tokens(self.query, batch))
        begun_at = time.monotonic()
        try:
            scores = await self.scorer.scores(self.query, batch)
            self._settle(held, scores, time.monotonic() - begun_at)
        finally:
            self.purse.release(held)  # what is settled stays
        return scores

    def _settle(self, held: str, scores: Sequence[Score], seconds: float) -> None:
        spend = Spend(
            num_calls=sum(score.num_calls for score in scores),
            num_prompt_tokens=sum(score.num_prompt_tokens for score in scores),
            num_completion_tokens=sum(score.num_completion_tokens for score in scores),
            num_cached_calls=self.scorer.calls_per_piece * sum(score.is_cached for score in scores),
            seconds=seconds,
        )
        self.purse.settle(held, spend)
        self.spend += spend

    def _told(self, batch: Sequence[Piece], scores: Sequence[Score]) -> dict[str, float]:
        for piece, score in zip(batch, scores, strict=True):
            said = "no answer" if score.value is None else f"{score.value:+.2f}"
            if score.error:
                said = f"not judged, {score.error}"
            self.trace.add(
                "error" if score.error else "score",
                f"{piece.key}: {said}",
                parent=self.parent,
                node_id=piece.node_id,
                num_prompt_tokens=score.num_prompt_tokens,
                num_completion_tokens=score.num_completion_tokens,
                is_cached=score.is_cached,
                worker=score.worker,
            )
        pairs = zip(batch, scores, strict=True)
        return {piece.key: score.value for piece, score in pairs if score.value is not None}

    def _cut(self, ending: Ending, exc: Exception) -> dict[str, float]:
        if self.ending is Ending.COMPLETE:
            self.ending = ending
            self.trace.add("error", f"judging ends here: {str(exc) or 'no time is left'}", parent=self.parent)
        return {}
