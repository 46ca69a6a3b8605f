"""Runs one task through the graph, from the first node or from where a killed run stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Settings
from pipeline.core import Task
from pipeline.protocols import EnvironmentBuilder, Generator, Sandbox
from pipeline.runs import RunFolder, RunRecord
from pipeline.telemetry import Emit, discard


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """The edges of the graph: everything that reaches outside, and the settings."""

    generator: Generator
    sandbox: Sandbox
    environments: EnvironmentBuilder
    settings: Settings
    clone_cache: Path
    emit: Emit = discard


async def run_task(task: Task, folder: RunFolder, deps: Dependencies) -> RunRecord:
    """Run the task to its end and return its record, which is saved to the folder after every node.

    A folder that holds a checkpoint of this task and these settings is resumed: nothing finished is redone.

    Raises:
        InputError: the task cannot be used, or the folder belongs to another task or other settings.
        EnvironmentBrokenError: the model, the sandbox or the target's environment failed.
    """
    raise NotImplementedError
