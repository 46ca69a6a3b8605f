"""One engine on a Ray actor, as a Replica: Ray's errors become ours, and a restart is waited out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pipeline.core import GeneratorInfo, Prompt, Sampling
from pipeline.exceptions import EngineDeadError, GeneratorError, LoopwrightError, ModelUnavailableError
from workers.engine.batch import EngineCounters, Event, SampleKey

_RETRY_SECONDS = 0.5
_CONTROL_SECONDS = 10.0  # for the methods that answer from a thread of their own


class RayReplica:
    """A Replica behind an actor handle."""

    def __init__(self, handle: Any, *, client: str, start_timeout_seconds: float) -> None:
        self._handle = handle
        self._client = client  # whom `touch` keeps alive in the actor's eyes
        self._start_timeout_seconds = start_timeout_seconds

    async def info(self) -> GeneratorInfo:
        """Return what the engine serves, once it is up; waits while Ray restarts it.

        Raises:
            EngineDeadError: it will never be up, or is not in `start_timeout_seconds`.
        """
        from ray.exceptions import ActorUnavailableError

        deadline = time.monotonic() + self._start_timeout_seconds
        while True:
            try:
                return await asyncio.wait_for(
                    self._handle.info.remote(), max(deadline - time.monotonic(), 0.1)
                )
            except ActorUnavailableError:
                await asyncio.sleep(_RETRY_SECONDS)
            except TimeoutError:
                raise EngineDeadError(
                    f"the engine was not up after {self._start_timeout_seconds:.0f} s",
                    hint="Free memory and CPU, or raise engine.start_timeout_seconds.",
                ) from None
            except Exception as error:
                raise translated(error) from error

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the tokens of each prompt."""
        return await self._call("count_tokens", list(prompts), timeout_seconds=None)

    async def queue_length(self) -> int:
        """Return the number of samples that are waiting or running."""
        return await self._call("queue_length", timeout_seconds=_CONTROL_SECONDS)

    async def counters(self) -> EngineCounters:
        """Return what the engine has done since it started."""
        return await self._call("counters", timeout_seconds=_CONTROL_SECONDS)

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, wanted: Sequence[SampleKey]
    ) -> AsyncGenerator[Event, None]:
        """Draft the wanted samples and yield each as it ends. Closing the stream aborts the rest."""
        import ray

        stream = self._handle.generate.options(num_returns="streaming").remote(
            self._client, list(prompts), sampling, list(wanted)
        )
        is_finished = False
        try:
            async for reference in stream:
                yield await reference
            is_finished = True
        except Exception as error:
            is_finished = True
            raise translated(error) from error
        finally:
            if not is_finished:
                ray.cancel(stream)

    async def _call(self, method: str, *arguments: Any, timeout_seconds: float | None) -> Any:
        try:
            return await asyncio.wait_for(getattr(self._handle, method).remote(*arguments), timeout_seconds)
        except TimeoutError:
            raise EngineDeadError(f"the engine did not answer in {timeout_seconds} s") from None
        except Exception as error:
            raise translated(error) from error


def translated(error: Exception) -> Exception:
    """Return our error for one of Ray's; one that is not Ray's comes back as it is."""
    from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, LoopwrightError):
            return cause
        return GeneratorError(f"the engine's actor failed: {cause}")
    if isinstance(error, ActorDiedError) and error.actor_init_failed:
        return _start_failure(error)
    if isinstance(error, RayActorError):
        return EngineDeadError(
            "the engine died",
            hint="If this repeats, memory may be short: lower engine.max_num_seqs or engine.kv_cache_bytes.",
        )
    if isinstance(error, RayError):
        return GeneratorError(f"Ray failed: {error}")
    return error


# What stands before the message of our own errors in a traceback.
_OURS = f"{ModelUnavailableError.__module__}.{ModelUnavailableError.__name__}: "


def _start_failure(error: Exception) -> LoopwrightError:
    """Return why the actor's constructor raised; Ray hands its traceback over as text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return GeneratorError(
        f"the engine did not start: {lines[-1].removeprefix(_OURS)}",
        hint="`loopwright model verify` checks the checkpoint, `loopwright doctor` the machine.",
    )
