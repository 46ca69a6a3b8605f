"""A warm engine without a model: a Ray with an engine actor that recites, found as a real one would be.

    python -m tests.integration.scripted_engine MODEL

Prints a line when it is up, and ends when its stdin closes. What runs is the real service behind a scripted
backend; only vLLM is left out, which takes most of a minute to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from typing import Any

import psutil

from pipeline.cli.compose import cluster_settings
from pipeline.cli.inputs import Flags, resolve_settings
from pipeline.core import Prompt, Sampling
from workers import ray_runtime, warm_state
from workers.engine.backend import Piece
from workers.engine.batch import Event
from workers.engine.service import EngineService
from workers.warm_state import WarmState

_NAME = "scripted-engine"
_ANSWER = "\n    return a + b\n"


class RecitingBackend:
    """Drafts the right answer a little later than it is asked, when the seed is odd; else a wrong one."""

    is_dead = False

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Return a token for every four characters."""
        return list(range(sum(len(message.content) for message in prompt.messages) // 4 + 1))

    def check(self, sampling: Sampling) -> None:
        """Take anything."""

    async def stream(
        self, request_id: str, tokens: list[int], sampling: Sampling, seed: int
    ) -> AsyncGenerator[Piece, None]:
        """Recite."""
        await asyncio.sleep(0.2)
        yield Piece(_ANSWER if seed % 2 else f"\n    return a * b + {seed}\n", 10, "stop")

    def shutdown(self) -> None:
        """Nothing to end."""


class ScriptedActor:
    """What a planner asks of `workers.engine.actor.EngineActor`."""

    def __init__(self, settings: Any) -> None:
        self._service = EngineService(RecitingBackend(), settings)

    async def info(self) -> Any:
        """Return what it serves."""
        return await self._service.info()

    async def count_tokens(self, prompts: Any) -> Any:
        """Return the tokens of each prompt."""
        return await self._service.count_tokens(prompts)

    async def touch(self, client: str) -> None:
        """Take note."""

    async def generate(
        self, client: str, prompts: Any, sampling: Sampling, wanted: Any
    ) -> AsyncGenerator[Event, None]:
        """Draft the wanted samples."""
        async with contextlib.aclosing(self._service.generate(prompts, sampling, wanted)) as events:
            async for event in events:
                yield event


def main(model: str) -> None:
    """Serve until stdin closes."""
    settings = cluster_settings(resolve_settings(Flags(model=model)))
    folder = ray_runtime.start_ray(settings.state_folder)
    import ray

    engine = settings.engine.resolved()
    actor = ray.remote(ScriptedActor).options(name=_NAME, num_cpus=0).remote(engine)
    ray.get(actor.info.remote())
    state = WarmState(
        pid=os.getpid(),
        process_started_at=psutil.Process().create_time(),
        address=ray.get_runtime_context().gcs_address,
        actor_names=(_NAME,),
        engine_id=engine.engine_id,
        model=engine.model_path,
        max_model_tokens=engine.max_model_tokens,
        max_recurrence_depth=engine.max_recurrence_depth,
        idle_timeout_seconds=None,
        phase="ready",
    )
    warm_state.write(settings.state_folder, state)
    print("up", flush=True)
    sys.stdin.read()
    warm_state.remove(settings.state_folder)
    ray_runtime.stop_ray(folder)


if __name__ == "__main__":
    main(sys.argv[1])
