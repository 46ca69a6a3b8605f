"""The planners of a batch: in this process, over its endpoint or its engine."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pipeline.batch.folder import BatchFolder
from pipeline.batch.planner import LocalFleet, LocalPlanner
from pipeline.batch.runner import Fleet
from pipeline.cli.compose import composed, roots
from pipeline.cli.home import outcomes_path
from pipeline.config import Settings
from pipeline.telemetry import Emit


@asynccontextmanager
async def open_fleet(
    settings: Settings, folder: BatchFolder, num_tasks: int | None, emit: Emit
) -> AsyncIterator[Fleet]:
    """Yield the planners; what was started for them has ended when the block has.

    Raises:
        EnvironmentBrokenError: no sandbox works, or the engine or the endpoint cannot be had.
    """
    num_tasks = num_tasks or default_num_tasks(settings)
    known = roots(_frozen_outcomes(folder))
    async with composed(settings, emit, known, num_sharing=num_tasks) as dependencies:
        yield LocalFleet(LocalPlanner(dependencies, folder.instances), num_tasks)


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
