"""Answers a question about a repository or a long text by code that a model writes (tier R)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from pipeline.context.reading import Answer, Ending, Query
from pipeline.context.reading_trace import Trace
from pipeline.context.rlm.broker import Broker, Text
from pipeline.context.rlm.link import Inputs, Link, kernel
from pipeline.context.rlm.root import Root
from pipeline.context.rlm.session import Session
from pipeline.context.rlm.settings import RecursionSettings
from pipeline.context.spending import Purse
from pipeline.core import Budget, GeneratorInfo, SandboxLimits
from pipeline.exceptions import InputError
from pipeline.protocols import Generator, Sandbox
from pipeline.snapshot import Snapshot
from pipeline.text import count

_NUM_TURNS_KEPT = 2  # that cells cannot spend, so that the root can answer
_MOST_KEPT = 4  # but no more than one part in so many
_MAX_WALL_SECONDS = 86_400.0  # of a sandbox
_SPARE_SECONDS = 10.0  # the sandbox's own limits come after ours


async def answer(
    query: Query,
    source: Snapshot | str | Sequence[str],
    budget: Budget,
    *,
    generator: Generator,
    sandbox: Sandbox,
    folder: Path,
    trace: Trace | None = None,
    settings: RecursionSettings | None = None,
) -> Answer:
    """Return what a model finds out about `source`; what is spent is held in `folder`.

    The sandbox serves the root's run and up to num_children more for each level below it, all at once; of a
    sandbox that says it serves fewer, fewer are asked for.

    Raises:
        SandboxError: no REPL can be started.
        GeneratorError: the engine failed, after its retry.
        InputError: the model's window is too small, the sampling is not servable, or the sandbox serves too
            few runs for the budget's depth.
    """
    begun_at = time.time()
    settings = _within(sandbox, settings or RecursionSettings(), budget.max_depth)
    reading = _Reading(
        generator=generator,
        info=await generator.info(),
        sandbox=sandbox,
        settings=settings,
        trace=trace or Trace(),
        batches=asyncio.Semaphore(settings.num_batches),
        levels=[asyncio.Semaphore(settings.num_children) for _ in range(budget.max_depth + 1)],
    )
    purse = Purse.open(folder / "spending.sqlite", budget, begun_at + budget.wall_seconds)
    inputs = await asyncio.to_thread(_inputs, query, source)
    return await reading.answer(inputs, purse, budget.max_depth, None)


@runtime_checkable
class HasBound(Protocol):
    """A Sandbox that knows how many runs it serves at once, as `pipeline.batch.edges.BoundedSandbox` does."""

    num_parallel: int


def _within(sandbox: Sandbox, settings: RecursionSettings, max_depth: int) -> RecursionSettings:
    """Return settings with no more children than the sandbox serves: one that waits in vain fails late."""
    if not isinstance(sandbox, HasBound) or not max_depth:
        return settings
    most = (sandbox.num_parallel - 1) // max_depth
    if most < 1:
        raise InputError(
            f"a sandbox that serves {count(sandbox.num_parallel, 'run')} at once cannot hold a REPL and "
            f"{count(max_depth, 'level')} below it",
            hint="allow fewer levels of recursion, or more sandboxes at once",
        )
    return replace(settings, num_children=min(settings.num_children, most))


def _inputs(query: Query, source: Snapshot | str | Sequence[str]) -> Inputs:
    failures = query.evidence.failures if query.evidence else ()
    evidence = "\n\n".join(f"{case.test_id}\n{case.message}\n{case.details}" for case in failures)
    if isinstance(source, Snapshot):
        return Inputs(question=query.text, context=evidence, repository=source.tar)
    question = f"{query.text}\n\nTests that fail:\n{evidence}" if evidence else query.text
    return Inputs(question=question, context=source)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What all sessions of one question share."""

    generator: Generator
    info: GeneratorInfo
    sandbox: Sandbox
    settings: RecursionSettings
    trace: Trace
    batches: asyncio.Semaphore
    levels: list[asyncio.Semaphore]  # by depth; a session waits only for those of the level below its own

    async def answer(self, inputs: Inputs, purse: Purse, depth: int, parent: int | None) -> Answer:
        """Answer by a session of its own."""
        begun_at = time.monotonic()
        event = self.trace.add("question", inputs.question, parent=parent, detail=inputs.question)
        ending, text = Ending.NOTHING_READ, ""
        if inputs.context or inputs.repository is not None:
            ending, text = await self._read(inputs, purse, depth, event)
        self.trace.add("answer", str(ending), parent=event, detail=text)
        return Answer(
            text=text,
            tier="recursive",
            spend=replace(purse.spent(), seconds=time.monotonic() - begun_at),
            ending=ending,
        )

    async def _read(self, inputs: Inputs, purse: Purse, depth: int, event: int) -> tuple[Ending, str]:
        async def spawn(question: str, text: Text, slice_: Purse, parent: int) -> Answer:
            return await self.answer(Inputs(question=question, context=text), slice_, depth - 1, parent)

        def start() -> AbstractAsyncContextManager[Link]:
            return kernel(self.sandbox, inputs, self._limits(purse), self.settings.output_chars)

        broker = Broker(
            generator=self.generator,
            info=self.info,
            purse=self._for_cells(purse),
            settings=self.settings,
            trace=self.trace,
            batches=self.batches,
            children=self.levels[depth],
            spawn=spawn if depth else None,
        )
        session = Session(start, self.settings.cell_seconds)
        root = Root(
            inputs=inputs,
            session=session,
            broker=broker,
            purse=purse,
            settings=self.settings,
            trace=self.trace,
            event=event,
            depth=depth,
            wall_seconds=purse.remaining().seconds,
        )
        try:
            return await root.run()
        finally:
            await session.close()

    def _for_cells(self, purse: Purse) -> Purse:
        left = purse.remaining()
        kept_tokens = min(_NUM_TURNS_KEPT * self.info.max_model_tokens, left.num_tokens // _MOST_KEPT)
        kept_calls = min(_NUM_TURNS_KEPT, left.num_calls // _MOST_KEPT)
        return purse.slice(num_calls=left.num_calls - kept_calls, num_tokens=left.num_tokens - kept_tokens)

    def _limits(self, purse: Purse) -> SandboxLimits:
        seconds = min(purse.remaining().seconds + _SPARE_SECONDS, _MAX_WALL_SECONDS)
        return self.settings.sandbox.model_copy(update={"wall_seconds": seconds, "cpu_seconds": seconds})
