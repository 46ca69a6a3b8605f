"""Runs the event loop so that Ctrl-C, SIGTERM and a closed terminal unwind a run in the same, orderly way."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interruption:
    """Cancels one task at the first signal and lets the signals through after the second."""

    def __init__(self) -> None:
        self.num_signals = 0
        self._task: asyncio.Task[Any] | None = None

    def install(self) -> None:
        """Take the signals over, for the task that calls this."""
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop)

    def _stop(self) -> None:
        self.num_signals += 1
        if self.num_signals == 1 and self._task is not None:
            print("stopping; what is done so far is kept ...", file=sys.stderr)
            self._task.cancel()
        elif self.num_signals == 2:
            print("still cleaning up; once more to leave at once", file=sys.stderr)
            for number in _SIGNALS:
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)


def run_interruptibly(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run the coroutine to its end and return its result.

    Raises:
        KeyboardInterrupt: a signal came and the coroutine has unwound.
    """
    interruption = _Interruption()

    async def guarded() -> _Result:
        interruption.install()
        return await work

    try:
        return asyncio.run(guarded())
    except BaseException as exc:
        if interruption.num_signals:  # whatever else broke while it unwound is not the news
            raise KeyboardInterrupt from exc
        raise
