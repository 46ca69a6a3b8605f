"""A worker that scores pieces of a repository, on a Ray actor: names of pieces come in, scores go out.

It has the tree from the object store, writes the texts itself, and records what it has asked as soon as a
chunk is finished. It never waits for another worker: who goes down the tree does so in the caller's process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from pipeline.context.descent.memo import MemoScorer, ScoreMemo
from pipeline.context.descent.pieces import Piece, Pieces
from pipeline.context.descent.scorer import Calibration, Score, YesNoScorer
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit
from pipeline.core import Completion, GeneratorInfo, Prompt, Sampling
from pipeline.protocols import Generator

_POLL_SECONDS = 0.2  # of an engine whose queue is full


class Material(NamedTuple):
    """What is read: put into the object store once, for all workers of all queries."""

    tree: RepoTree
    units: Sequence[Unit]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is started with."""

    make_generator: Callable[[], Generator]  # called once in each worker, in a thread; it must be picklable
    memo: ScoreMemo  # every worker must see its file
    calibration: Calibration = "none"
    recurrence_depth: int = 1
    max_queue: int = 128  # samples in the engine's shortest queue, from which on nothing is added to it


class ReadingWorker:
    """Scores pieces. `open` comes first; the methods run side by side in one event loop."""

    def __init__(self, settings: WorkerSettings, material: Material) -> None:
        self._settings = settings
        self._pieces = Pieces(material.tree, material.units)
        self._scorer: MemoScorer | None = None

    async def open(self) -> None:
        """Find the engine.

        Raises:
            GeneratorError: it does not start or does not answer.
        """
        mine = self._settings
        generator = PatientGenerator(await asyncio.to_thread(mine.make_generator), mine.max_queue)
        await generator.info()
        inner = YesNoScorer(
            generator,
            self._pieces,
            calibration=mine.calibration,
            recurrence_depth=mine.recurrence_depth,
        )
        self._scorer = MemoScorer(inner, mine.memo)

    async def count_tokens(self, query: str, pieces: Sequence[Piece]) -> int:
        """Return how many tokens the calls for these pieces take, answers included."""
        assert self._scorer is not None, "open comes first"
        return await self._scorer.count_tokens(query, pieces)

    async def scores(self, chunk_id: str, query: str, pieces: Sequence[Piece]) -> list[Score]:
        """Return a score for each piece. A chunk that is repeated keeps its id, and what it has paid for."""
        assert self._scorer is not None, "open comes first"
        return await self._scorer.scores_for(chunk_id, query, pieces)


@runtime_checkable
class HasQueue(Protocol):
    """A Generator that knows how long its engine's queue is, as `workers.generator.RayGenerator` does."""

    async def queue_length(self) -> int:
        """Return the number of samples that wait or run."""
        ...


class PatientGenerator:
    """A Generator that adds nothing to an engine's queue while that is full, where the engine can say so."""

    def __init__(self, inner: Generator, max_queue: int) -> None:
        self._inner = inner
        self._max_queue = max_queue

    async def info(self) -> GeneratorInfo:
        """Return the inner generator's description."""
        return await self._inner.info()

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Count at once: counting does not queue."""
        return await self._inner.count_tokens(prompts)

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Wait for room, and draft."""
        if isinstance(self._inner, HasQueue):
            while await self._inner.queue_length() >= self._max_queue:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(_POLL_SECONDS)
        return await self._inner.generate(prompts, sampling)
