"""A REPL that outlives its kernels: a cell that hangs or kills its kernel costs what no snapshot has."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from pipeline.context.rlm.link import Link
from pipeline.context.rlm.messages import (
    Call,
    Done,
    KernelError,
    LlmCall,
    Reply,
    Restored,
    RlmCall,
)

Serve = Callable[[Call], Awaitable[Sequence[Reply]]]
_RESTORE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class CellEnd:
    """How a cell ended: with what the kernel said of it, or with the kernel's own end."""

    done: Done | None
    failure: str = ""  # of the kernel
    lost: tuple[str, ...] = ()  # names that a new kernel does not have


class Session:
    """Runs cells one after the other. The first one starts a kernel."""

    def __init__(self, start: Callable[[], AbstractAsyncContextManager[Link]], cell_seconds: float) -> None:
        """`start` runs a kernel; `cell_seconds` may pass in a cell besides what its questions take."""
        self._start = start
        self._cell_seconds = cell_seconds
        self._kernel = contextlib.AsyncExitStack()
        self._link: Link | None = None
        self._cell = 0
        self._last: Done | None = None  # its variables are the snapshot

    async def run(self, source: str, serve: Serve) -> CellEnd:
        """Run a cell; `serve` answers its questions.

        Raises:
            SandboxError: no kernel can be started, at first or again.
        """
        self._cell += 1
        link = self._link or await self._started()
        try:
            self._last = await self._exchange(link, source, serve)
        except KernelError as exc:
            lost = await self._restarted()
            return CellEnd(None, str(exc), lost)
        return CellEnd(self._last)

    async def close(self) -> None:
        """End the kernel."""
        self._link = None
        await self._kernel.aclose()

    async def _started(self) -> Link:
        self._link = await self._kernel.enter_async_context(self._start())
        return self._link

    async def _exchange(self, link: Link, source: str, serve: Serve) -> Done:
        left = self._cell_seconds
        await link.send({"type": "cell", "cell": self._cell, "source": source})
        while True:
            begun_at = time.monotonic()
            message = await _received(link, left, self._cell_seconds)
            if isinstance(message, (LlmCall, RlmCall)):
                asked_at = time.monotonic()
                replies = await serve(message)
                if not all(reply.is_refusal for reply in replies):  # to ask in vain comes to an end
                    begun_at += time.monotonic() - asked_at
                await link.send({"type": "reply", "results": [reply.model_dump() for reply in replies]})
                left -= time.monotonic() - begun_at
            elif isinstance(message, Done) and message.cell == self._cell:
                return message
            else:
                raise KernelError("spoke_nonsense", "the REPL sent what was not its turn to say")

    async def _restarted(self) -> tuple[str, ...]:
        """Start anew from the last snapshot; return the names that are lost."""
        await self.close()
        if self._last is None:
            return ()
        kept: frozenset[str] = frozenset()
        modules_alone = self._last.model_copy(update={"variables": {}, "definitions": {}})
        for snapshot in (self._last, modules_alone):  # to unpickle or to run one of them can end the kernel
            try:
                kept = await self._restored(await self._started(), snapshot)
                break
            except KernelError:
                await self.close()
        return tuple(sorted({name for name, _ in self._last.names} - kept))

    async def _restored(self, link: Link, snapshot: Done) -> frozenset[str]:
        kept = snapshot.model_dump(include={"variables", "modules", "definitions", "has_read"})
        await link.send({"type": "restore", **kept})
        message = await link.receive(_RESTORE_SECONDS)
        if not isinstance(message, Restored):
            raise KernelError("spoke_nonsense", "the REPL did not take up its snapshot")
        names = {*snapshot.variables, *snapshot.modules, *snapshot.definitions}
        return frozenset(names - set(message.lost))


async def _received(link: Link, left_seconds: float, cell_seconds: float) -> object:
    try:
        return await link.receive(max(left_seconds, 0.0))
    except KernelError as exc:
        if exc.failure != "timed_out":
            raise
        raise KernelError("timed_out", f"the cell was stopped after {cell_seconds:g} seconds") from exc
