"""Planners on Ray actors: one for each node, all over the same engines, where drafts of many tasks meet.

What runs in an actor is `pipeline.batch.planner.LocalPlanner`. An actor ends with the driver that made it,
and its sandboxes end with it. On a cluster the batch's folder must lie where every node sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.batch.outcome import Row
from pipeline.batch.planner import LocalPlanner, Planner, PlannerProgress
from pipeline.batch.task_file import Instance
from pipeline.config import Settings
from pipeline.exceptions import EnvironmentBrokenError, InputError, LoopwrightError, PlannerDiedError
from pipeline.protocols import Generator, Sandbox
from pipeline.telemetry import Action, Emit, Event
from workers.cluster import attach
from workers.edges import Roots, dependencies, endpoint_generator, sandbox_edges

_STOP_SECONDS = 30.0  # for what a cancelled instance has to put in order


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSettings:
    """What a planner is started with."""

    settings: str  # of every task, as JSON
    roots: Roots
    instances: Path  # a folder in it for each instance
    num_tasks: int  # at once
    actor_names: tuple[str, ...]  # of the engines; none: the settings name an endpoint
    start_timeout_seconds: float  # of an engine that is restarted


class PlannerActor:
    """A Planner on an actor. `open` comes first; the methods run side by side in one event loop."""

    def __init__(self, settings: PlannerSettings) -> None:
        self._settings = settings
        self._planner: LocalPlanner | None = None
        self._sandbox: Sandbox | None = None

    async def open(self) -> list[str]:
        """Get the planner ready and return what there is to say about it.

        Raises:
            InputError: this node does not see the batch's folder.
            EnvironmentBrokenError: no sandbox works here, or a server does not answer.
        """
        mine, told = self._settings, _Told()
        if not mine.instances.is_dir():
            raise InputError(
                f"a node does not see {mine.instances}",
                hint="put --out where every node of the cluster sees it",
            )
        settings = Settings.model_validate_json(mine.settings)
        edges = await sandbox_edges(settings, mine.roots, told, num_sharing=mine.num_tasks)
        self._sandbox = edges[0]
        generator: Generator
        if mine.actor_names:
            generator = await asyncio.to_thread(attach, mine.actor_names, mine.start_timeout_seconds)
        else:
            generator = endpoint_generator(settings.endpoint)
        await generator.info()
        outside = await dependencies(settings, mine.roots, generator, edges, told, num_sharing=mine.num_tasks)
        self._planner = LocalPlanner(outside, mine.instances)
        return told.lines

    async def run(self, instance: Instance) -> Row:
        """Work on the instance to its end."""
        assert self._planner is not None, "open comes first"
        return await self._planner.run(instance)

    async def close(self) -> None:
        """End the sandboxes that wait."""
        if self._sandbox:
            await self._sandbox.close()

    async def progress(self) -> PlannerProgress:
        """Return how far the planner has come."""
        assert self._planner is not None, "open comes first"
        return await self._planner.progress()


class _Told:
    """An Emit that keeps the last word of each stage."""

    def __init__(self) -> None:
        self._by_stage: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        if event.action is not Action.STAGE_STARTED:
            self._by_stage[str(event.data.get("stage"))] = event.message

    @property
    def lines(self) -> list[str]:
        return list(self._by_stage.values())


class RayPlanner:
    """A Planner behind an actor handle: Ray's errors become ours."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def run(self, instance: Instance) -> Row:
        """Work on the instance to its end; see `pipeline.batch.planner.Planner`."""
        import ray

        reference = self.handle.run.remote(instance)
        try:
            return await reference
        except asyncio.CancelledError:
            ray.cancel(reference)
            # Its sandboxes are ended and its folder is put in order before we go on.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(reference, _STOP_SECONDS)
            raise
        except Exception as error:
            raise _translated(error) from error

    async def progress(self) -> PlannerProgress:
        """Return how far it has come."""
        try:
            return await self.handle.progress.remote()
        except Exception as error:
            raise _translated(error) from error


class RayFleet:
    """Planners on the connected Ray; one that dies is replaced on its node, or on another if that is gone."""

    def __init__(self, settings: PlannerSettings, emit: Emit) -> None:
        self._settings = settings
        self._emit = emit
        self._nodes: dict[Planner, str] = {}  # planner -> node id

    @property
    def planners(self) -> Sequence[Planner]:
        """The planners that were started, one for each node."""
        return tuple(self._nodes)

    @property
    def num_tasks(self) -> int:
        """How many instances each works on at once."""
        return self._settings.num_tasks

    async def open(self) -> None:
        """Start a planner on every node.

        Raises:
            EnvironmentBrokenError: one cannot be started; so it is with the sandbox or the server there.
            InputError: a node does not see the batch's folder.
        """
        import ray

        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU"):
                await self._start(node["NodeID"])

    async def replace(self, dead: Planner) -> Planner:
        """Return a planner in place of one that died."""
        self._emit(
            Event(Action.WARNING, "a planner died; another goes on where it was", {"stage": "planner"})
        )
        node_id = self._nodes.pop(dead)
        _kill(dead)  # where it is only out of reach, two must not work on one instance
        return await self._start(node_id)

    async def close(self) -> None:
        """End all planners and their sandboxes."""
        closing = [asyncio.ensure_future(_closed(planner)) for planner in self._nodes]
        if closing:
            await asyncio.wait(closing, timeout=_STOP_SECONDS)
        for planner in self._nodes:
            _kill(planner)
        self._nodes.clear()

    async def _start(self, node_id: str) -> Planner:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = {
            "num_cpus": 0,  # the engines have them; what a planner runs is bounded by its sandboxes
            "max_restarts": 0,  # we replace it ourselves, and know then what to give it again
            "max_task_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=True),
        }
        handle = ray.remote(PlannerActor).options(**options).remote(self._settings)
        planner = RayPlanner(handle)
        self._nodes[planner] = node_id
        try:
            told = await handle.open.remote()
        except Exception as error:
            raise _translated(error) from error
        for line in told:
            self._emit(Event(Action.STAGE_FINISHED, line, {"stage": "planner"}))
        return planner


async def _closed(planner: Planner) -> None:
    assert isinstance(planner, RayPlanner)
    with contextlib.suppress(Exception):  # one that is lost has nothing to close
        await planner.handle.close.remote()


def _kill(planner: Planner) -> None:
    import ray

    assert isinstance(planner, RayPlanner)
    with contextlib.suppress(Exception):
        ray.kill(planner.handle)


def _translated(error: Exception) -> Exception:
    """Return our error for one of Ray's; one that is not Ray's comes back as it is."""
    from ray.exceptions import RayActorError, RayError, RayTaskError

    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, LoopwrightError):
            return cause
        return EnvironmentBrokenError(f"a planner failed: {type(cause).__name__}: {cause}")
    if isinstance(error, RayActorError):
        return PlannerDiedError(
            "the planner's process died", hint="if this repeats, memory may be short: fewer --workers"
        )
    if isinstance(error, RayError):
        return EnvironmentBrokenError(f"Ray failed: {error}")
    return error
