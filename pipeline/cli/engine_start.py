"""Starts the local engine in the background, and gives it up in order where it is no longer wanted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pipeline.core import Completion, GeneratorInfo, Prompt, Sampling
from pipeline.exceptions import EnvironmentBrokenError
from pipeline.telemetry import Action, Emit, Event

if TYPE_CHECKING:
    from workers.generator import RayGenerator

_CLOSE_SECONDS = 60.0


class _Closeable(Protocol):
    def close(self) -> None: ...


_Engine = TypeVar("_Engine", bound=_Closeable)


class EngineStart(Generic[_Engine]):
    """An engine, or a connection to one, that a thread brings up; it is told what is waited for."""

    def __init__(
        self, begin: Callable[[Callable[[str], None]], _Engine], emit: Emit, what: str = "the engine"
    ) -> None:
        """Begin; `begin` calls the function that it is given now and again, which raises to end it."""
        self._begin = begin
        self._what = what
        self._emit = emit
        self._is_wanted = True
        self._engine: Future[_Engine] = Future()
        self._thread = threading.Thread(target=self._start, name="engine-start", daemon=True)
        self._thread.start()

    async def ready(self) -> _Engine:
        """Return the engine, once it is up.

        Raises:
            EnvironmentBrokenError: it did not start.
        """
        # Shielded: a cancelled run must not mark the start as cancelled while its thread goes on.
        return await asyncio.shield(asyncio.wrap_future(self._engine))

    def close(self) -> None:
        """End the engine if it was started for this run, also when it is still starting."""
        self._is_wanted = False
        self._thread.join(_CLOSE_SECONDS)
        if self._engine.done() and self._engine.exception() is None:
            self._engine.result().close()

    def _start(self) -> None:
        try:
            self._emit(Event(Action.STAGE_STARTED, f"starting {self._what}", {"stage": "engine"}))
            engine = self._begin(self._notify)
            self._emit(Event(Action.STAGE_FINISHED, f"{self._what} is up", {"stage": "engine"}))
            self._engine.set_result(engine)
        except BaseException as exc:
            self._engine.set_exception(exc)

    def _notify(self, line: str) -> None:
        if not self._is_wanted:  # unwinds the start, which tidies up
            raise EnvironmentBrokenError("the engine is no longer wanted")
        self._emit(Event(Action.PROGRESS, line, {"stage": "engine"}))


class StartingGenerator:
    """A Generator over an engine that is still starting; the first call waits for it."""

    def __init__(self, start: EngineStart[RayGenerator]) -> None:
        self._start = start

    async def info(self) -> GeneratorInfo:
        """Return what the engine serves, once it is up."""
        return await (await self._start.ready()).info()

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the tokens of each prompt."""
        return await (await self._start.ready()).count_tokens(prompts)

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Draft, and tell how many tokens there are by now."""
        return await (await self._start.ready()).generate(prompts, sampling)

    def close(self) -> None:
        """End the engine if it was started for this run, also when it is still starting."""
        self._start.close()
