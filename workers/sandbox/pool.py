"""A warm pool: sandboxes that are up and wait for a script, so that a run need not wait for its own to start.

Each serves one run and is ended: nothing is reset, so nothing can be left behind for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from pipeline.core import SandboxRequest
from pipeline.exceptions import InputError, SandboxError
from workers.sandbox.mounts import image_of, requested

_NUM_REMEMBERED = 64
_HEAD_START_SECONDS = 0.15  # of a run before the next sandbox is started: that would slow its own start
_LEAST_IDLE_SECONDS = 5.0  # a younger one is not given up for another shape: they would only take turns


class Slot(Protocol):
    """A sandbox that waits for its script."""

    @property
    def is_alive(self) -> bool:
        """Whether it still waits."""
        ...

    async def end(self) -> None:
        """Kill whatever runs in it and remove it."""
        ...


AnySlot = TypeVar("AnySlot", bound=Slot)


def shape_of(request: SandboxRequest) -> Hashable:
    """Return what of the request a sandbox is started with: others of the same shape can share a start.

    Raises:
        InputError: a mount that no sandbox gets.
    """
    started_with = request.limits.model_dump(exclude={"output_bytes", "file_bytes"})
    return (requested(request), request.network, image_of(request), tuple(started_with.items()))


@dataclass
class _Spare(Generic[AnySlot]):
    slot: AnySlot
    shape: Hashable
    since: float = field(default_factory=time.monotonic)

    @property
    def idle_seconds(self) -> float:
        return time.monotonic() - self.since


class WarmPool(Generic[AnySlot]):
    """Starts a slot ahead for each that is leased, from the second of a shape on, up to `size` in all.

    It keeps itself in a task of the running event loop, and ends what is spare when that is cancelled.
    """

    def __init__(
        self,
        start: Callable[[SandboxRequest], Awaitable[AnySlot]],
        size: int,
        max_idle_seconds: float = 60.0,
    ) -> None:
        self._start = start
        self._size = size
        self._max_idle_seconds = max_idle_seconds
        self._spares: list[_Spare[AnySlot]] = []
        self._served: list[AnySlot] = []  # to be ended
        self._asked: deque[Hashable] = deque(maxlen=_NUM_REMEMBERED)  # shapes; many are asked for only once
        self._owed: deque[tuple[float, Hashable, SandboxRequest]] = deque(maxlen=max(size, 1))  # from when on
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def num_spare(self) -> int:
        """How many sandboxes are up and wait."""
        return sum(spare.slot.is_alive for spare in self._spares)

    async def lease(self, request: SandboxRequest) -> AnySlot:
        """Return a slot of the request's shape for one run: one that waits, else a new one.

        Raises:
            SandboxError: it cannot be started.
            InputError: the request itself is not usable.
        """
        if not self._size:
            return await self._start(request)
        shape = shape_of(request)
        if self._keeper is None or self._keeper.done():
            self._wake = asyncio.Event()  # of this event loop
            self._keeper = asyncio.create_task(self._keep(), name="warm sandboxes")
        spare = next((s for s in self._spares if s.shape == shape and s.slot.is_alive), None)
        if spare:
            self._spares.remove(spare)
        if shape in self._asked:
            self._owed.append((time.monotonic() + _HEAD_START_SECONDS, shape, request))
            self._wake.set()
        else:
            self._asked.append(shape)
        return spare.slot if spare else await self._start(request)

    async def give_back(self, slot: AnySlot) -> None:
        """End a slot that has served; the run that comes next does not wait for that."""
        if not self._keeper or self._keeper.done() or len(self._served) >= self._size:
            await slot.end()
            return
        self._served.append(slot)
        self._wake.set()

    async def close(self) -> None:
        """End the slots that wait."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self) -> None:
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._max_idle_seconds):  # wait_for can lose a cancellation
                        await self._wake.wait()
                self._wake.clear()
                while self._served or self._owed:
                    await self._end_served()
                    if self._owed:
                        await self._start_ahead(*self._owed.popleft())
                await self._end_old()
        finally:
            self._served += [spare.slot for spare in self._spares]
            self._spares.clear()
            await self._end_served()

    async def _end_served(self) -> None:
        while self._served:
            with contextlib.suppress(SandboxError):  # what stays is for the reaper
                await self._served[0].end()
            self._served.pop(0)

    async def _start_ahead(self, due: float, shape: Hashable, request: SandboxRequest) -> None:
        await asyncio.sleep(due - time.monotonic())
        if len(self._spares) >= self._size:
            oldest = max(self._spares, key=lambda spare: spare.idle_seconds)
            if oldest.shape == shape or oldest.idle_seconds < _LEAST_IDLE_SECONDS:
                return
            self._spares.remove(oldest)
            self._served.append(oldest.slot)
            await self._end_served()
        # A run that needs one meets the error again, and says so.
        with contextlib.suppress(SandboxError, InputError):
            self._spares.append(_Spare(await self._start(request), shape))

    async def _end_old(self) -> None:
        for spare in list(self._spares):
            if not spare.slot.is_alive or spare.idle_seconds > self._max_idle_seconds:
                self._spares.remove(spare)
                self._served.append(spare.slot)
        await self._end_served()
