"""The planners of a batch: on Ray beside the engine, or in this process where there is no Ray."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.batch.folder import BatchFolder
from pipeline.batch.planner import LocalFleet, LocalPlanner
from pipeline.batch.runner import Fleet
from pipeline.cli.compose import cluster_settings, composed, roots
from pipeline.cli.engine_start import EngineStart
from pipeline.cli.home import outcomes_path
from pipeline.config import Settings
from pipeline.telemetry import Emit

if TYPE_CHECKING:
    from workers.cluster import Connection
    from workers.edges import Roots


@asynccontextmanager
async def open_fleet(
    settings: Settings, folder: BatchFolder, num_tasks: int | None, emit: Emit
) -> AsyncIterator[Fleet]:
    """Yield the planners; what was started for them has ended when the block has.

    With an endpoint and no cluster they are in this process: there is no engine to be near to.

    Raises:
        EnvironmentBrokenError: no sandbox works, or the engine or the endpoint cannot be had.
    """
    num_tasks = num_tasks or default_num_tasks(settings)
    folders = roots(_frozen_outcomes(folder))
    if settings.endpoint.url and not has_cluster():
        async with composed(settings, emit, folders, num_sharing=num_tasks) as dependencies:
            yield LocalFleet(LocalPlanner(dependencies, folder.instances), num_tasks)
        return
    async with _on_ray(settings, folder, num_tasks, folders, emit) as fleet:
        yield fleet


@asynccontextmanager
async def _on_ray(
    settings: Settings, folder: BatchFolder, num_tasks: int, folders: Roots, emit: Emit
) -> AsyncIterator[Fleet]:
    what = "the connection to Ray" if settings.endpoint.url else "the engine"
    start = EngineStart(connecting(settings), emit, what)
    try:
        connection = await start.ready()
        from workers.planner import PlannerSettings, RayFleet

        fleet = RayFleet(
            PlannerSettings(
                settings=settings.model_dump_json(),
                roots=folders,
                instances=folder.instances,
                num_tasks=num_tasks,
                actor_names=connection.actor_names,
                start_timeout_seconds=connection.start_timeout_seconds,
            ),
            emit,
        )
        try:
            await fleet.open()
            yield fleet
        finally:
            await asyncio.shield(fleet.close())
    finally:
        await asyncio.shield(asyncio.to_thread(start.close))


def connecting(settings: Settings) -> Callable[[Callable[[str], None]], Connection]:
    """Return what connects to the engine's Ray, or, with an endpoint, to the cluster of RAY_ADDRESS alone."""
    from workers.cluster import connect, join_cluster

    if settings.endpoint.url:
        return lambda _notify: join_cluster(os.environ["RAY_ADDRESS"])
    cluster = cluster_settings(settings)
    return lambda notify: connect(cluster, notify)


def has_cluster() -> bool:
    """Say whether RAY_ADDRESS names a cluster, and Ray is installed."""
    return bool(os.environ.get("RAY_ADDRESS")) and importlib.util.find_spec("ray") is not None


def default_num_tasks(settings: Settings) -> int:
    """Return how many tasks a planner works on at once, unless it is told.

    One task keeps either the engine or all the sandboxes busy, and neither while it is prepared. Two for each
    sandbox slot, and two more, leave drafts waiting at the engine while others are tested and prepared.
    """
    return 2 * settings.sandbox.num_parallel + 2


def _frozen_outcomes(folder: BatchFolder) -> Path:
    """Return what the policy knew when the batch began.

    A batch must not learn from itself: its results would depend on which of its tasks ended first.
    """
    frozen, now = folder.path / "outcomes.jsonl", outcomes_path()
    if not frozen.exists():
        partial = frozen.with_suffix(".partial")
        if now.exists():
            shutil.copyfile(now, partial)
        else:
            partial.touch()
        partial.replace(frozen)
    return frozen
