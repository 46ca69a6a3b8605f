"""The engine on a Ray actor: its environment, its watch over the engine's processes, and its loud death.

Imports Ray, so it is imported only where an engine is really wanted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NoReturn

import ray

from pipeline.core import GeneratorInfo, Prompt, Sampling
from pipeline.exceptions import EngineDeadError
from workers.engine.backend import VllmBackend
from workers.engine.batch import EngineCounters, Event, SampleKey
from workers.engine.clients import Clients
from workers.engine.environment import engine_environment, is_cpu_build
from workers.engine.guard import start_guard
from workers.engine.service import EngineService
from workers.engine.settings import EngineSettings

MAX_RESTARTS = 3
_CONTROL = "control"  # a thread of its own, so that these answer while the engine's loop is busy
_WATCH_SECONDS = 0.5


class EngineActor:
    """A Replica for Ray. Its methods are those of `EngineService`, and none outlives a dead engine.

    The constructor returns when the engine is ready. When the engine dies, the process says so and exits; Ray
    starts it again, up to MAX_RESTARTS times.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._guard = start_guard()
        self._backend = VllmBackend(settings)
        self._service = EngineService(self._backend, settings)
        self._clients = Clients()
        self._stopping = threading.Event()
        threading.Thread(target=self._exit_when_dead, name="engine-watch", daemon=True).start()

    async def info(self) -> GeneratorInfo:
        """Return what the engine serves."""
        return await self._service.info()

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the tokens of each prompt."""
        return await self._service.count_tokens(prompts)

    async def generate(
        self, client: str, prompts: Sequence[Prompt], sampling: Sampling, wanted: Sequence[SampleKey]
    ) -> AsyncGenerator[Event, None]:
        """Draft the wanted samples and yield each as it ends.

        Cancelling the call aborts the rest; so does a client that is silent for too long, since Ray does not
        cancel what a killed driver asked for.
        """
        self._clients.seen(client)
        try:
            async with contextlib.aclosing(self._service.generate(prompts, sampling, wanted)) as events:
                async for event in events:
                    self._clients.require(client)
                    yield event
        except EngineDeadError:
            _die()  # at once: who retries must meet the restarted actor, not this one

    @ray.method(concurrency_group=_CONTROL)
    async def queue_length(self) -> int:
        """Return the number of samples that are waiting or running."""
        return await self._service.queue_length()

    @ray.method(concurrency_group=_CONTROL)
    async def counters(self) -> EngineCounters:
        """Return what the engine has done since it started."""
        return await self._service.counters()

    @ray.method(concurrency_group=_CONTROL)
    async def touch(self, client: str) -> None:
        """Note that the client is there, and restart the idle clock."""
        self._clients.seen(client)
        await self._service.touch()

    @ray.method(concurrency_group=_CONTROL)
    async def health(self) -> None:
        """Raise EngineDeadError where the engine can never answer again."""
        await self._service.health()

    @ray.method(concurrency_group=_CONTROL)
    async def shutdown(self) -> None:
        """End the engine's processes; the actor serves nothing afterwards."""
        self._stopping.set()
        self._backend.shutdown()

    def _exit_when_dead(self) -> None:
        while not self._stopping.wait(_WATCH_SECONDS):
            if self._backend.is_dead:
                _die()


def _die() -> NoReturn:
    print("loopwright: the engine process died; its actor exits", file=sys.stderr, flush=True)
    os._exit(1)


def start_actor(settings: EngineSettings, *, name: str) -> Any:
    """Create the actor on the connected Ray and return its handle at once; calls wait until it is ready.

    `settings` must be resolved. The actor ends when the process that created it ends.
    """
    num_gpus = 1 if not is_cpu_build() and ray.cluster_resources().get("GPU", 0) >= 1 else 0
    actor_class = ray.remote(concurrency_groups={_CONTROL: 4})(EngineActor)
    return actor_class.options(
        name=name,
        num_cpus=settings.num_threads or 1,
        num_gpus=num_gpus,
        max_restarts=MAX_RESTARTS,
        max_task_retries=0,  # the generator retries what is unfinished, not whole batches
        runtime_env={"env_vars": engine_environment(settings, on_cpu=not num_gpus)},
    ).remote(settings)
