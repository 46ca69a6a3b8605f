"""Runs one task in its folder, and leaves a record of every end of it, also of a bad one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from pipeline.cli.errors import ExitCode, describe, exit_code_of
from pipeline.cli.run_store import TASK_FILE
from pipeline.config import Settings
from pipeline.core import Task
from pipeline.exceptions import InputError, NothingToRepairError
from pipeline.runs import RunFolder, RunRecord, RunStatus
from pipeline.telemetry import Emit

if TYPE_CHECKING:
    from pipeline.graph.run import Dependencies

SETTINGS_FILE = "settings.json"
Compose = Callable[[Settings, Emit], AbstractAsyncContextManager["Dependencies"]]


def start_folder(folder: RunFolder, task: Task, settings: Settings) -> None:
    """Write down what is to be run, so that it can be resumed whenever it is killed."""
    folder.write_text(SETTINGS_FILE, settings.model_dump_json(indent=1))
    folder.write_text(TASK_FILE, task.model_dump_json(indent=1))


def resume_folder(folder: RunFolder) -> tuple[Task, Settings]:
    """Return what a run was started with.

    Raises:
        InputError: the folder does not say, or says it in a way that this version cannot read.
    """
    try:
        task = Task.model_validate_json((folder.path / TASK_FILE).read_text())
        values = Settings.model_validate_json((folder.path / SETTINGS_FILE).read_text())
    except (OSError, ValueError) as exc:
        raise InputError(f"run {folder.run_id} cannot be resumed: {exc}") from exc
    return task, values


async def execute(
    task: Task, settings: Settings, folder: RunFolder, emit: Emit, compose: Compose
) -> RunRecord:
    """Run the task, from where an earlier run of the folder stopped, and return its record.

    Raises:
        LoopwrightError: what `compose` and `run_task` raise; the folder's record then says so too.
    """
    from pipeline.graph.run import run_task

    started_at = datetime.now(UTC)
    try:
        async with compose(settings, emit) as dependencies:
            return await run_task(task, folder, dependencies)
    except BaseException as exc:
        with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
            _record_failure(task, settings, folder, started_at, exc)
        raise


def _record_failure(
    task: Task, settings: Settings, folder: RunFolder, started_at: datetime, error: BaseException
) -> None:
    try:
        record = folder.load()
    except InputError:  # it did not get as far as its first node
        record = RunRecord(
            run_id=folder.run_id,
            status="running",
            task=task,
            settings=settings.model_dump(mode="json"),
            versions={"loopwright": version("loopwright"), "python": sys.version.split()[0]},
            started_at=started_at,
        )
    changes = {"status": _status_of(error), "reason": describe(error)[0], "finished_at": datetime.now(UTC)}
    folder.save(record.model_copy(update=changes))


def _status_of(error: BaseException) -> RunStatus:
    if isinstance(error, NothingToRepairError):
        return "nothing_to_repair"
    interrupted = not isinstance(error, Exception) or exit_code_of(error) is ExitCode.INTERRUPTED
    return "interrupted" if interrupted else "failed"
