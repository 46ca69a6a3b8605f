"""Gives the instances of a batch to its planners, in order, and sees each to an outcome."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from pipeline.batch.outcome import InstanceOutcome, Row, failed_row
from pipeline.batch.planner import Planner, PlannerProgress
from pipeline.batch.task_file import Entry, Instance
from pipeline.exceptions import PlannerDiedError, SandboxLostError

MAX_DEATHS = 3  # of planners, under one instance
_POLL_SECONDS = 1.0


class Fleet(Protocol):
    """The planners of a batch, and where new ones come from."""

    @property
    def planners(self) -> Sequence[Planner]:
        """The planners to begin with."""
        ...

    @property
    def num_tasks(self) -> int:
        """How many instances each planner works on at once."""
        ...

    async def replace(self, dead: Planner) -> Planner:
        """Return a planner in place of one that died.

        Raises:
            EnvironmentBrokenError: none can be started.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """How far a batch has come."""

    num_total: int  # instances, those of earlier commands included
    counts: Mapping[InstanceOutcome, int]  # of all that have an outcome
    num_running: int
    num_done_now: int  # outcomes since this command began
    num_tokens_now: int  # completion tokens since this command began
    seconds: float  # since this command began

    @property
    def num_left(self) -> int:
        """Return how many have no outcome yet."""
        return self.num_total - sum(self.counts.values())

    @property
    def tasks_per_hour(self) -> float | None:
        """Return the rate since this command began, or None where nothing is done yet."""
        return 3600 * self.num_done_now / self.seconds if self.num_done_now and self.seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Return how long the rest takes at this rate, or None where nobody can say."""
        return 3600 * self.num_left / self.tasks_per_hour if self.tasks_per_hour else None


@dataclass(eq=False)
class Runner:
    """One command's work on a batch."""

    fleet: Fleet
    load: Callable[[Entry], Instance]
    keep: Callable[[Row], None]  # called once for every instance that ends, before it counts
    watch: Callable[[BatchStatus], None]  # called every second, and after each instance
    num_total: int
    counts: Counter[InstanceOutcome] = field(default_factory=Counter)  # at the start: of earlier commands
    _started: float = field(default_factory=time.monotonic, init=False)
    _num_done: int = field(default=0, init=False)
    _running: set[str] = field(default_factory=set, init=False)
    _planners: list[Planner] = field(default_factory=list, init=False)
    _without_sandbox: set[Planner] = field(default_factory=set, init=False)
    _tokens: dict[int, int] = field(default_factory=dict, init=False)  # of each planner that ever was
    _replacing: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def run(self, entries: Sequence[Entry]) -> None:
        """Work on the entries to the last.

        Raises:
            EngineLostError: nothing can be drafted any more; instances without an outcome can be resumed.
            SandboxLostError: no planner has a sandbox that works any more; the same holds.
            EnvironmentBrokenError: a planner cannot be replaced, or nothing more can be written.
            InputError: the task file was changed meanwhile.
        """
        self._planners = list(self.fleet.planners)
        waiting = iter(entries)
        seats = [seat for _ in range(self.fleet.num_tasks) for seat in range(len(self._planners))]
        poll = asyncio.create_task(self._poll())
        try:
            async with asyncio.TaskGroup() as group:
                for seat in seats[: len(entries)]:
                    group.create_task(self._serve(seat, waiting))
        except* Exception as errors:
            raise _first(errors) from None
        finally:
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)
        await self._count_tokens()
        self.watch(self.status())

    def status(self) -> BatchStatus:
        """Return how far the batch has come."""
        return BatchStatus(
            num_total=self.num_total,
            counts=dict(self.counts),
            num_running=len(self._running),
            num_done_now=self._num_done,
            num_tokens_now=sum(self._tokens.values()),
            seconds=time.monotonic() - self._started,
        )

    async def _serve(self, seat: int, waiting: Iterator[Entry]) -> None:
        """Work on one instance after the other, at this planner."""
        for entry in waiting:
            self._running.add(entry.instance_id)
            try:
                row = await self._finish(entry, seat)
            finally:
                self._running.discard(entry.instance_id)
            self.keep(row)
            self.counts[row.outcome] += 1
            self._num_done += 1
            self.watch(self.status())

    async def _finish(self, entry: Entry, seat: int) -> Row:
        instance = self.load(entry)
        started_at = datetime.now(UTC)
        num_deaths = 0
        while True:
            planner = self._planner_of(seat)
            try:
                return await planner.run(instance)
            except SandboxLostError:
                self._without_sandbox.add(planner)
                if self._without_sandbox.issuperset(self._planners):
                    raise
            except PlannerDiedError as exc:
                num_deaths += 1
                await self._replace(planner)
                if num_deaths == MAX_DEATHS:
                    text = f"{num_deaths} planners died while it was worked on: {exc}"
                    return failed_row(instance, PlannerDiedError(text, hint=exc.hint), None, started_at)

    def _planner_of(self, seat: int) -> Planner:
        """Return the planner of the seat, or the next whose sandbox works: on another node it may."""
        others = self._planners[seat:] + self._planners[:seat]
        return next((p for p in others if p not in self._without_sandbox), others[0])

    async def _replace(self, dead: Planner) -> None:
        async with self._replacing:  # of all that lost it, one asks for another
            if dead in self._planners:
                self._planners[self._planners.index(dead)] = await self.fleet.replace(dead)

    async def _poll(self) -> None:
        while True:
            await self._count_tokens()
            self.watch(self.status())
            await asyncio.sleep(_POLL_SECONDS)

    async def _count_tokens(self) -> None:
        planners = list(self._planners)
        answers = await asyncio.gather(*(p.progress() for p in planners), return_exceptions=True)
        for planner, answer in zip(planners, answers, strict=True):
            if isinstance(answer, PlannerProgress):
                self._tokens[id(planner)] = answer.num_tokens


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
