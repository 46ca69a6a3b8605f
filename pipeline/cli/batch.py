"""`loopwright batch`: a file of tasks, several at once, each to an outcome that is kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options
from pipeline.cli.errors import ExitCode
from pipeline.exceptions import InputError

if TYPE_CHECKING:
    from pipeline.batch.outcome import InstanceOutcome
    from pipeline.batch.task_file import Entry
    from pipeline.config import Settings

_TASKS = "The tasks"


def batch(
    tasks: Annotated[
        Path, typer.Argument(help="A task a line, as JSON: SWE-bench instances, or loopwright's own tasks.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the results go. The same again continues there.")
    ],
    num_tasks: Annotated[
        int | None, typer.Option("--workers", min=1, help="Tasks at once, on each node.", show_default=False)
    ] = None,
    redo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUTCOME",
            help="Do those again that ended solved, unsolved, invalid or infra; repeatable.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="These instances alone; repeatable.", rich_help_panel=_TASKS),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first so many of the file alone.", rich_help_panel=_TASKS)
    ] = None,
    candidates: options.Candidates = None,
    rounds: options.Rounds = None,
    depth: options.Depth = None,
    max_depth: options.MaxDepth = None,
    model: options.Model = None,
    pull: options.Pull = False,
    endpoint: options.Endpoint = None,
    sandbox: options.SandboxKind = None,
    seed: options.Seed = None,
    wall_seconds: options.WallSeconds = None,
    config: options.Config = None,
    assignments: options.Assignments = None,
    as_json: options.AsJson = False,
) -> None:
    """Repair many repositories: run each task of a file to an outcome, several at once over one engine.

    Whatever stops it, the same command goes on where it was. DIR gets a row for each outcome (results.jsonl),
    the patches as SWE-bench takes them (predictions.jsonl), a report for each instance and a summary page.
    """
    from pipeline.cli.inputs import Flags, resolve_settings

    flags = Flags(
        config=config,
        depth=depth,
        max_depth=max_depth,
        candidates=candidates,
        rounds=rounds,
        model=model,
        endpoint=endpoint,
        sandbox=sandbox,
        seed=seed,
        wall_seconds=wall_seconds,
        assignments=tuple(assignments or ()),
    )
    settings = resolve_settings(flags)
    wishes = _Wishes(_outcomes(redo or ()), tuple(only or ()), limit, num_tasks, pull)
    raise typer.Exit(_work(tasks, out, settings, wishes, as_json=as_json))


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What is asked for besides the settings."""

    redo: frozenset[InstanceOutcome]
    only: tuple[str, ...]
    limit: int | None
    num_tasks: int | None
    pulls: bool


def _outcomes(names: Collection[str]) -> frozenset[InstanceOutcome]:
    from pipeline.batch.outcome import InstanceOutcome

    try:
        return frozenset(InstanceOutcome(name) for name in names)
    except ValueError as exc:
        known = ", ".join(outcome.value for outcome in InstanceOutcome)
        raise InputError(f"--redo: {exc}", hint=f"the outcomes are {known}") from exc


def _work(tasks: Path, out: Path, settings: Settings, wishes: _Wishes, *, as_json: bool) -> ExitCode:
    """Do what is left of the batch, tell what it came to, and return the exit code."""
    from pipeline.batch.folder import BatchFolder
    from pipeline.batch.task_file import TaskFile
    from pipeline.cli.batch_ending import Outputs, exit_code, tell
    from pipeline.cli.batch_run import run_batch

    file = TaskFile(tasks, settings.limits)
    entries = _selected(file.scan(), wishes)
    folder = BatchFolder(out)
    with folder.opened(settings):
        plan = folder.plan(entries, wishes.redo)
        outputs = Outputs(folder, dict(plan.rows))
        error: BaseException | None = None
        try:
            if plan.todo:
                run_batch(file, plan, outputs, settings, num_tasks=wishes.num_tasks, pulls=wishes.pulls)
        except (Exception, KeyboardInterrupt) as exc:
            error = exc
        outputs.write()
        num_left = sum(entry.instance_id not in outputs.rows for entry in plan.todo)
        tell(outputs, num_left=num_left, error=error, as_json=as_json)
        if error is not None:
            raise error
    return exit_code(outputs.rows.values())


def _selected(entries: list[Entry], wishes: _Wishes) -> list[Entry]:
    unknown = set(wishes.only) - {entry.instance_id for entry in entries}
    if unknown:
        raise InputError(f"the task file has no instance {', '.join(sorted(unknown))}")
    chosen = [entry for entry in entries if not wishes.only or entry.instance_id in wishes.only]
    return chosen[: wishes.limit]
