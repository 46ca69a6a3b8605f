"""What `bench score` and held-back tests need of the command line: a sandbox, and patches from files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.exceptions import InputError

if TYPE_CHECKING:
    from pipeline.bench.run import ScorePatches
    from pipeline.bench.score import Score
    from pipeline.config import Settings
    from pipeline.core import Task
    from pipeline.protocols import EnvironmentBuilder, Sandbox

Say = Callable[[str], None]


def score_file(
    tasks: Path, predictions: Path, config: Path | None, overrides: Mapping[str, Any], say: Say
) -> None:
    """Judge the patches of a file, and put the scores on stdout.

    Raises:
        InputError: a file cannot be read, or a patch is of no task.
        EnvironmentBrokenError: an environment cannot be made, or the sandbox failed.
    """
    from pipeline.batch.task_file import TaskFile
    from pipeline.bench.score import read_predictions
    from pipeline.config import load_settings

    settings = load_settings(config, overrides)
    patches = read_predictions(predictions)
    file = TaskFile(tasks, settings.limits)
    entries = {entry.instance_id: entry for entry in file.scan()}
    if unknown := sorted(patches.keys() - entries.keys()):
        raise InputError(f"{tasks} has no task {unknown[0]}, of which {predictions} has a patch")
    if broken := [entry.error for name, entry in entries.items() if name in patches and entry.error]:
        raise InputError(broken[0])
    chosen = [file.instance(entry).task for name, entry in entries.items() if name in patches]
    scores = asyncio.run(_scores(chosen, patches, settings, None, say))
    for score in scores:
        typer.echo(json.dumps(asdict(score)))
    without = len(entries) - len(scores)
    more = f"; {without} tasks have no prediction" if without else ""
    say(f"{sum(score.resolved for score in scores)} of {len(scores)} resolved{more}")


def patch_scorer(ledger: Path, say: Say) -> ScorePatches:
    """Return what judges a batch's patches under its settings; finished runs are kept in `ledger`."""

    def score(tasks: Sequence[Task], patches: Mapping[str, str], config: Path) -> list[Score]:
        from pipeline.config import load_settings

        settings = load_settings(config)
        limited = [task.model_copy(update={"limits": settings.limits}) for task in tasks]
        return asyncio.run(_scores(limited, patches, settings, ledger, say))

    return score


async def quiet_edges(settings: Settings, say: Say) -> tuple[Sandbox, EnvironmentBuilder]:
    """Return the sandbox and the builder of environments; of what they do only warnings are said."""
    from pipeline.cli.compose import sandbox_edges
    from pipeline.telemetry import Action

    return await sandbox_edges(
        settings, lambda event: say(event.message) if event.action is Action.WARNING else None
    )


async def _scores(
    tasks: Sequence[Task], patches: Mapping[str, str], settings: Settings, ledger: Path | None, say: Say
) -> list[Score]:
    from pipeline.bench.score import Scorer
    from pipeline.cli.home import clones_root
    from pipeline.ledger import LedgerSandbox

    sandbox, environments = await quiet_edges(settings, say)
    scorer = Scorer(
        sandbox=LedgerSandbox(sandbox, ledger) if ledger else sandbox,
        environments=environments,
        clone_cache=clones_root(),
        num_parallel=settings.sandbox.num_parallel,
    )
    return await scorer.score_all(tasks, patches)
