"""A circuit breaker around a sandbox: while it works for nobody, runs wait for it and are then repeated.

So an engine that restarts costs no run its result, and one that is lost costs no more than its time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_delay, wait_exponential

from pipeline.core import Outcome, SandboxRequest, SandboxResult
from pipeline.exceptions import SandboxLostError
from pipeline.protocols import Sandbox

_NUM_REPEATS = 3  # of a run that fails while others work
_MAX_PAUSE_SECONDS = 10.0
_PROBE = SandboxRequest(argv=("true",), run_id="probe")


class BreakerSandbox:
    """A Sandbox that asks, when a run fails for reasons of infrastructure, whether any would work.

    Where none does, it is open: this run and all that come wait until one works again.
    """

    def __init__(
        self,
        inner: Sandbox,
        lost_after_seconds: float,
        on_progress: Callable[[str], None] | None = None,
        max_pause_seconds: float = _MAX_PAUSE_SECONDS,
    ) -> None:
        """Give the inner sandbox `lost_after_seconds` to come back."""
        self._inner = inner
        self.name = inner.name
        self._lost_after_seconds = lost_after_seconds
        self._say = on_progress or (lambda _line: None)
        self._max_pause_seconds = max_pause_seconds
        self._probing: asyncio.Task[None] | None = None

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Run the request; it comes back as INFRA_ERROR only where the sandbox works for others.

        Raises:
            SandboxLostError: it works for nobody, and has not come back in its time.
        """
        if self._probing is not None and not self._probing.done():
            await asyncio.shield(self._probing)
        for _ in range(_NUM_REPEATS):
            result = await self._inner.run(request)
            if result.outcome is not Outcome.INFRA_ERROR:
                return result
            await self._until_it_works()
        return await self._inner.run(request)

    async def close(self) -> None:
        """Stop waiting, and close the inner sandbox."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self._inner.close()

    async def _until_it_works(self) -> None:
        """Wait for a run that works; all who wait share the probes."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe(), name="sandbox probe")
        await asyncio.shield(self._probing)

    async def _probe(self) -> None:
        probing = AsyncRetrying(
            retry=retry_if_result(lambda result: result.outcome is Outcome.INFRA_ERROR),
            wait=wait_exponential(multiplier=0.5, max=self._max_pause_seconds),
            stop=stop_after_delay(self._lost_after_seconds),
            before_sleep=self._tell,
            retry_error_callback=self._give_up,
        )
        await probing(self._inner.run, _PROBE)

    def _tell(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            self._say(f"warning: the sandbox does not work, waiting for it: {_error(state)}")

    def _give_up(self, state: RetryCallState) -> None:
        raise SandboxLostError(
            f"the sandbox is lost, {self._lost_after_seconds:g} seconds were not enough: {_error(state)}",
            hint="mend it (loopwright doctor looks at it), then go on: what was done is kept",
        )


def _error(state: RetryCallState) -> str:
    assert state.outcome is not None
    return str(state.outcome.result().error)
