"""A planner works on several instances at once over shared edges; this one does so in its own process.

The seam to Ray: `workers.planner` puts the same planner on actors. What a planner must not lose is in the
instances' folders, so another one can go on where it stopped.
"""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from pipeline.batch.edges import SharedGenerator
from pipeline.batch.outcome import Row, failed_row, row_of
from pipeline.batch.task_file import Instance
from pipeline.core import Task
from pipeline.exceptions import (
    DiskFullError,
    EngineLostError,
    InputError,
    LoopwrightError,
    RunBusyError,
    SandboxLostError,
)
from pipeline.graph.run import Dependencies, run_task
from pipeline.report import render
from pipeline.runs import RunFolder, RunRecord
from pipeline.telemetry import discard

_BUSY_SECONDS = 90.0  # in which the process of a planner that died lets go of its runs


@dataclass(frozen=True, slots=True)
class PlannerProgress:
    """How far a planner has come since it started."""

    num_tokens: int = 0  # completion tokens
    num_running: int = 0  # instances being worked on


class Planner(Protocol):
    """Works on instances, wherever it runs."""

    async def run(self, instance: Instance) -> Row:
        """Work on the instance to its end, from where an earlier attempt stopped. Cancelling stops it.

        Raises:
            PlannerDiedError: the planner's process is gone; the instance's folder holds what was done.
            EngineLostError: nothing can be drafted any more; the instance has no outcome.
            SandboxLostError: nothing can be tested here any more; the instance has no outcome.
            DiskFullError: nothing can be kept any more; the instance has no outcome.
        """
        ...

    async def progress(self) -> PlannerProgress:
        """Return how far it has come; raises PlannerDiedError where it is gone."""
        ...


class LocalPlanner:
    """A Planner in this process."""

    def __init__(self, dependencies: Dependencies, instances: Path) -> None:
        """Keep each instance in a folder of `instances` by its id."""
        self._generators = [SharedGenerator(dependencies.generator)]
        if dependencies.strong is not None:
            self._generators.append(SharedGenerator(dependencies.strong))
        generator, *strong = self._generators
        self._dependencies = replace(
            dependencies, generator=generator, strong=strong[0] if strong else None, emit=discard
        )
        self._instances = instances
        self._num_running = 0

    async def run(self, instance: Instance) -> Row:
        """Work on the instance to its end; see `Planner`."""
        self._num_running += 1
        try:
            folder = RunFolder(self._instances / instance.task.task_id)
            return await _run_instance(instance, folder, self._dependencies)
        finally:
            self._num_running -= 1

    async def progress(self) -> PlannerProgress:
        """Return how far it has come."""
        num_tokens = sum(generator.num_tokens for generator in self._generators)
        return PlannerProgress(num_tokens, self._num_running)


@dataclass(frozen=True)
class LocalFleet:
    """A Fleet of one planner in this process, which lives as long as the process does."""

    planner: LocalPlanner
    num_tasks: int  # at once

    @property
    def planners(self) -> tuple[Planner, ...]:
        """The one planner."""
        return (self.planner,)

    async def replace(self, dead: Planner) -> Planner:
        """Never asked for."""
        raise AssertionError("a planner in this process cannot die alone")


async def _run_instance(instance: Instance, folder: RunFolder, dependencies: Dependencies) -> Row:
    """Run the instance in its folder, whatever comes of it, and leave a report there.

    What every other instance would meet as well is raised: it is no outcome of this one.
    """
    started_at = datetime.now(UTC)
    try:
        record = await _run_when_free(instance.task, folder, dependencies)
    except (EngineLostError, SandboxLostError):
        raise
    except Exception as exc:
        if _is_disk_full(exc):
            raise DiskFullError(
                f"no room is left on the disk: {exc}", hint="make some, then give the same command again"
            ) from exc
        if not isinstance(exc, LoopwrightError):
            folder.write_text("error.txt", "".join(traceback.format_exception(exc)))
        failed = _saved(folder)
        if failed is not None:
            _write_report(folder, failed)
        return failed_row(instance, exc, failed, started_at)
    _write_report(folder, record)
    return row_of(instance, record, started_at)


async def _run_when_free(task: Task, folder: RunFolder, dependencies: Dependencies) -> RunRecord:
    """Run the task once no other process works on it: one that was killed needs a moment to be gone."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(RunBusyError),
        stop=stop_after_delay(_BUSY_SECONDS),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    return await retrying(run_task, task, folder, dependencies)


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":  # the checkpoint could not be written
            return True
        error = error.__cause__ or error.__context__
    return False


def _saved(folder: RunFolder) -> RunRecord | None:
    try:
        return folder.load()
    except InputError:
        return None


def _write_report(folder: RunFolder, record: RunRecord) -> None:
    folder.write_text(folder.report_path.name, render(record))
