"""Spreads the judging of a question over Ray workers beside the engine, for `ask --workers`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.engine_start import EngineStart
from pipeline.cli.fleet import connecting, has_cluster
from pipeline.config import Settings
from pipeline.exceptions import InputError
from pipeline.protocols import Generator
from pipeline.telemetry import Emit

if TYPE_CHECKING:
    from pipeline.ask.reader import Book, ScorerOf
    from pipeline.context.descent.judge import Scorer
    from pipeline.context.reading_trace import Trace


@asynccontextmanager
async def spread(
    settings: Settings, num_workers: int, scores: Path, trace: Trace, emit: Emit
) -> AsyncIterator[tuple[Generator, ScorerOf]]:
    """Yield a generator over the engines, and what makes a Scorer over reading workers on their Ray.

    `scores` is the memo's file; every node must see it.

    Raises:
        EnvironmentBrokenError: the engine or the cluster cannot be had.
        InputError: with an endpoint, and no cluster.
    """
    if settings.endpoint.url and not has_cluster():
        raise InputError("workers need a Ray cluster", hint="set RAY_ADDRESS, or leave --workers out")
    start = EngineStart(connecting(settings), emit)
    try:
        found = await start.ready()
        from pipeline.context.descent.memo import ScoreMemo
        from workers.cluster import attach
        from workers.edges import endpoint_generator
        from workers.reading import Material, WorkerSettings
        from workers.reading_pool import PoolLimits, RayScorer, WorkerPool

        make_generator: Callable[[], Generator] = (
            partial(attach, found.actor_names, found.start_timeout_seconds)
            if found.actor_names
            else partial(endpoint_generator, settings.endpoint)
        )

        @asynccontextmanager
        async def scorer_of(book: Book, recurrence_depth: int) -> AsyncIterator[Scorer]:
            worker = WorkerSettings(
                make_generator=make_generator, memo=ScoreMemo(scores), recurrence_depth=recurrence_depth
            )
            pool = WorkerPool(worker, PoolLimits(num_workers=num_workers))
            try:
                await pool.open(Material(book.tree, book.units))
                yield RayScorer(pool, trace)
            finally:
                await asyncio.shield(pool.close())

        yield await asyncio.to_thread(make_generator), scorer_of
    finally:
        await asyncio.shield(asyncio.to_thread(start.close))
