"""Runs what is left of a batch: model, planners, runner, progress, and signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.batch.folder import Plan
from pipeline.batch.outcome import Row
from pipeline.batch.task_file import TaskFile
from pipeline.cli.batch_progress import BatchProgress, watched
from pipeline.cli.compose import find_model, pull_model
from pipeline.cli.interrupt import run_interruptibly
from pipeline.config import Settings

if TYPE_CHECKING:
    from pipeline.cli.batch_ending import Outputs


def run_batch(
    file: TaskFile, plan: Plan, outputs: Outputs, settings: Settings, *, num_tasks: int | None, pulls: bool
) -> None:
    """Work on the plan's instances; the outputs get a row for each that ends.

    Raises:
        ModelUnavailableError: the model is not on this machine.
        EnvironmentBrokenError: the engine, the sandbox or a planner cannot be had any more.
        KeyboardInterrupt: it was stopped, in order.
    """
    with watched() as progress:
        if not settings.endpoint.url:
            if pulls:
                pull_model(settings, progress.emit)
            find_model(settings)  # told at once, and not after the sandbox was chosen
        run_interruptibly(_run(file, plan, outputs, settings, num_tasks, progress))


async def _run(
    file: TaskFile,
    plan: Plan,
    outputs: Outputs,
    settings: Settings,
    num_tasks: int | None,
    progress: BatchProgress,
) -> None:
    from pipeline.batch.runner import Runner
    from pipeline.cli.fleet import open_fleet

    def keep(row: Row) -> None:
        outputs.add(row)
        progress.finished(row)

    async with open_fleet(settings, outputs.folder, num_tasks, progress.emit) as fleet:
        runner = Runner(
            fleet=fleet,
            load=file.instance,
            keep=keep,
            watch=progress.show,
            num_total=len(plan.todo) + len(plan.rows),
        )
        runner.counts.update(row.outcome for row in plan.rows.values())
        await runner.run(plan.todo)
