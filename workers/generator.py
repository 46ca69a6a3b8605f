"""A Generator over engine replicas: spreads a batch, and retries once what a dying engine took with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol, TypeVar

from pipeline.core import Completion, GeneratorInfo, Prompt, Sampling
from pipeline.exceptions import EngineDeadError
from workers.engine.batch import Event, SampleKey

_Answer = TypeVar("_Answer")
OnProgress = Callable[[int, int, int], None]  # completions done, completions in all, tokens drafted


class Replica(Protocol):
    """One engine, wherever it runs. `EngineService` is one itself; `RayReplica` is one on an actor."""

    async def info(self) -> GeneratorInfo:
        """Return what the engine serves, once it is ready; raises EngineDeadError where it never will be."""
        ...

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the tokens of each prompt."""
        ...

    async def queue_length(self) -> int:
        """Return the number of requests that are waiting or running."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, wanted: Sequence[SampleKey]
    ) -> AsyncGenerator[Event, None]:
        """Draft the wanted samples and yield each as it ends; raises EngineDeadError if the engine dies."""
        ...


@dataclass(eq=False)
class _Batch:
    """What one call to `generate` has so far."""

    prompts: Sequence[Prompt]
    sampling: Sampling
    on_progress: OnProgress | None
    finished: dict[SampleKey, Completion] = field(default_factory=dict)
    drafted: dict[int, int] = field(default_factory=dict)  # tokens of each draw, by its number

    @property
    def wanted(self) -> list[SampleKey]:
        return [
            SampleKey(prompt, sample)
            for prompt in range(len(self.prompts))
            for sample in range(self.sampling.num_samples)
        ]

    def unfinished(self, keys: Sequence[SampleKey]) -> list[SampleKey]:
        return [key for key in keys if key not in self.finished]

    async def draw_from(self, replica: Replica, keys: Sequence[SampleKey]) -> None:
        """Have the replica draft these samples, once it is up."""
        draw = len(self.drafted)
        self.drafted[draw] = 0
        await replica.info()
        async with contextlib.aclosing(replica.generate(self.prompts, self.sampling, keys)) as events:
            async for event in events:
                self.drafted[draw] = event.num_tokens
                if event.key is not None and event.completion is not None:
                    self.finished[event.key] = event.completion
                self.report()

    def result(self) -> list[list[Completion]]:
        rows: list[list[Completion]] = [[] for _ in self.prompts]
        for key in self.wanted:
            rows[key.prompt].append(self.finished[key])
        return rows

    def report(self) -> None:
        if self.on_progress is not None:
            self.on_progress(len(self.finished), len(self.wanted), sum(self.drafted.values()))


class RayGenerator:
    """Implements `pipeline.protocols.Generator`.

    Samples of one prompt stay on one replica, where they share its prefix cache; prompts go to the replica
    with the shortest queue. A context manager: leaving it calls `close`.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        on_progress: OnProgress | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        assert replicas, "a generator needs a replica"
        self._replicas = tuple(replicas)
        self._on_close = on_close
        self.on_progress = on_progress

    def __enter__(self) -> RayGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the engine; ends it where this process started it. May be called twice."""
        on_close, self._on_close = self._on_close, lambda: None
        on_close()

    async def info(self) -> GeneratorInfo:
        """Return what the engine serves, once it is ready."""
        return await self._from_any(lambda replica: replica.info())

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the tokens of each prompt, chat template and prefill included."""
        return await self._from_any(lambda replica: replica.count_tokens(prompts))

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Return `num_samples` completions for each prompt, in order. Cancelling it aborts the requests.

        Raises:
            InputError: a prompt does not fit the window, or the sampling cannot be served.
            EngineDeadError: the engine died, and died again or stayed dead when its requests were retried.
        """
        batch = _Batch(prompts, sampling, self.on_progress)
        try:
            async with asyncio.TaskGroup() as group:
                for replica, keys in (await self._shares(batch.wanted)).items():
                    group.create_task(self._run_share(batch, replica, keys))
        except* Exception as errors:
            raise _first(errors) from None
        return batch.result()

    async def queue_length(self) -> int:
        """Return the samples that wait or run in the shortest queue; 0 where no engine answers."""
        return min((await _lengths(self._replicas)).values(), default=0)

    async def _from_any(self, ask: Callable[[Replica], Awaitable[_Answer]]) -> _Answer:
        """Return the answer of the first replica that is not dead; all give the same."""
        *others, last = self._replicas
        for replica in others:
            with contextlib.suppress(EngineDeadError):
                return await ask(replica)
        return await ask(last)

    async def _shares(self, wanted: Sequence[SampleKey]) -> dict[Replica, list[SampleKey]]:
        """Return each replica's part of the batch: prompt by prompt to the shortest queue."""
        lengths = await self._queue_lengths(self._replicas)
        shares: dict[Replica, list[SampleKey]] = {}
        for _, samples in groupby(wanted, key=lambda key: key.prompt):
            shortest = min(lengths, key=lengths.__getitem__)
            shares.setdefault(shortest, []).extend(keys := list(samples))
            lengths[shortest] += len(keys)
        return shares

    async def _run_share(self, batch: _Batch, replica: Replica, keys: Sequence[SampleKey]) -> None:
        try:
            await batch.draw_from(replica, keys)
        except EngineDeadError:
            others = [other for other in self._replicas if other is not replica]
            lengths = await self._queue_lengths(others) if others else {replica: 0}
            await batch.draw_from(min(lengths, key=lengths.__getitem__), batch.unfinished(keys))

    async def _queue_lengths(self, replicas: Sequence[Replica]) -> dict[Replica, int]:
        """Return the queue of each replica that answers, or of all, as 0, when none does."""
        if len(replicas) == 1:
            return {replicas[0]: 0}
        return await _lengths(replicas) or dict.fromkeys(replicas, 0)


async def _lengths(replicas: Sequence[Replica]) -> dict[Replica, int]:
    answers = await asyncio.gather(*(r.queue_length() for r in replicas), return_exceptions=True)
    return {r: n for r, n in zip(replicas, answers, strict=True) if isinstance(n, int)}


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first error inside nested groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
