"""What both engines do around a started run: wait for its end or for a limit, and name the outcome."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from pipeline.core import Outcome, SandboxLimits, SandboxRequest, SandboxResult
from pipeline.exceptions import SandboxError
from workers.sandbox.streams import OutputLimitExceeded, Recorder

SETUP_SECONDS = 120.0  # for everything before the command starts: never charged to the command
REPORT_SECONDS = 30.0  # for what comes after it
NUM_RETRIES = 2
_Number = TypeVar("_Number", int, float)
_SIGNALLED = 128
_KILLED = _SIGNALLED + signal.SIGKILL
_CPU_LIMIT = _SIGNALLED + signal.SIGXCPU


class NoAnswerError(SandboxError):
    """The engine does not answer at all; to ask again at once is of no use."""


class DoubtfulError(SandboxError):
    """The run ended as a failure of the machine would have ended it, or code that wants it to look so."""

    def __init__(self, message: str, result: SandboxResult) -> None:
        super().__init__(message)
        self.result = result  # what it is where it is the code's doing


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run has used so far, as seen from outside of it."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    out_of_memory: bool = False


class Meter(Protocol):
    """Reads the usage of a run."""

    poll_seconds: float

    def read(self) -> Usage:
        """Return the usage now; the last known one when the run is over."""
        ...


async def watch(
    pump: Awaitable[None], recorder: Recorder, limits: SandboxLimits, meter: Meter | None
) -> Outcome | None:
    """Return the limit that the run hit, or None when it ended by itself. Kills nothing.

    `pump` feeds the recorder until the streams end. Wall seconds count from the start marker.

    Raises:
        SandboxError: the command did not start in time, or the connection to it broke.
    """
    task = asyncio.ensure_future(pump)
    begun_at = time.monotonic()
    poll_seconds = meter.poll_seconds if meter else 1.0
    try:
        while not task.done():
            await asyncio.wait(
                {task}, timeout=min(poll_seconds, max(0.01, _left(recorder, limits, begun_at)))
            )
            outcome = None if task.done() else _limit_hit(recorder, limits, begun_at, meter)
            if outcome:
                return outcome
        task.result()
    except OutputLimitExceeded:
        return Outcome.OUTPUT_LIMIT
    except OSError as error:
        raise SandboxError(f"the connection to the sandbox broke: {error}") from error
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OutputLimitExceeded, OSError):
            await task
        recorder.close()
    return None


def _left(recorder: Recorder, limits: SandboxLimits, begun_at: float) -> float:
    now = time.monotonic()
    if recorder.started_at is None:
        return begun_at + SETUP_SECONDS - now
    if recorder.ended_at is None:
        return recorder.started_at + limits.wall_seconds - now
    return recorder.ended_at + REPORT_SECONDS - now


def _limit_hit(
    recorder: Recorder, limits: SandboxLimits, begun_at: float, meter: Meter | None
) -> Outcome | None:
    if _left(recorder, limits, begun_at) <= 0:
        if recorder.started_at is None:
            raise SandboxError(f"the sandbox did not start the command within {SETUP_SECONDS:.0f} seconds")
        return Outcome.TIMED_OUT
    usage = meter.read() if meter else Usage()
    if usage.out_of_memory:
        return Outcome.OUT_OF_MEMORY
    if usage.cpu_seconds is not None and usage.cpu_seconds > limits.cpu_seconds:
        return Outcome.TIMED_OUT
    return None


def result(
    request: SandboxRequest,
    recorder: Recorder,
    hit: Outcome | None,
    usage: Usage,
    exit_code: int | None = None,
) -> SandboxResult:
    """Return what the run did. `exit_code` is the engine's own word, for a run that made no report.

    Raises:
        SandboxError: the command never started; the message holds what the setup printed.
        DoubtfulError: the supervisor was killed, from outside or by the code, or its stream broke.
    """
    if recorder.started_at is None:
        said = recorder.stderr.captured().text().strip()[-1000:]
        raise SandboxError(f"the sandbox could not be set up: {said or f'exit code {exit_code}'}")
    outcome, code = _outcome(recorder, hit, usage, exit_code)
    ended_at = recorder.ended_at or time.monotonic()
    found = SandboxResult(
        outcome=outcome,
        exit_code=code,
        stdout=recorder.stdout.captured(),
        stderr=recorder.stderr.captured(),
        collected=recorder.files(request.collect, request.signed),
        wall_seconds=ended_at - recorder.started_at,
        cpu_seconds=_larger(usage.cpu_seconds, recorder.cpu_seconds),
        peak_memory_bytes=_larger(usage.peak_memory_bytes, recorder.peak_memory_bytes),
    )
    if outcome is Outcome.EXITED and not recorder.is_whole:
        raise DoubtfulError("the sandbox was killed before its report was whole", found)
    return found


def _outcome(
    recorder: Recorder, hit: Outcome | None, usage: Usage, engine_code: int | None
) -> tuple[Outcome, int | None]:
    if hit is not None:
        return hit, None
    # Whatever the exit code: a parent may have hidden that its child was killed.
    if usage.out_of_memory or recorder.out_of_memory:
        return Outcome.OUT_OF_MEMORY, None
    code = recorder.exit_code
    if code is None:  # no report: the supervisor was killed
        code = engine_code if engine_code and engine_code > 0 else _KILLED
    if code == _CPU_LIMIT:
        return Outcome.TIMED_OUT, None
    return Outcome.EXITED, code


def _larger(one: _Number | None, other: _Number | None) -> _Number | None:
    return max((value for value in (one, other) if value is not None), default=None)


async def together(*jobs: Awaitable[None]) -> None:
    """Wait for all jobs; the first exception of one cancels the others and is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def with_retries(attempt: Callable[[], Awaitable[SandboxResult]]) -> SandboxResult:
    """Return the attempt's result; after three that broke, an INFRA_ERROR that says why.

    An end in doubt is the code's own where the last attempt ends so, too: nothing is retried for ever, and
    no code gets out of its verdict.
    """
    retrying = AsyncRetrying(
        stop=stop_after_attempt(1 + NUM_RETRIES),
        wait=wait_exponential_jitter(multiplier=0.2, max=2.0),
        retry=retry_if_exception(lambda e: isinstance(e, SandboxError) and not isinstance(e, NoAnswerError)),
        reraise=True,
    )
    try:
        async for trial in retrying:
            with trial:
                return await attempt()
    except DoubtfulError as error:
        return error.result
    except SandboxError as error:
        return SandboxResult(outcome=Outcome.INFRA_ERROR, error=str(error))
    raise AssertionError("unreachable: the last attempt returns or raises")
