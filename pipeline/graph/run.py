"""Runs one task through the graph, from the first node or from where a killed run stopped."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.config import Settings
from pipeline.core import Task
from pipeline.exceptions import InputError, LoopwrightError, NothingToRepairError, RunBusyError
from pipeline.graph.routing import recursion_limit
from pipeline.graph.state import Progress, dump, load
from pipeline.graph.toolbox import Toolbox
from pipeline.ledger import LedgerGenerator, LedgerSandbox
from pipeline.policy.store import OutcomeStore
from pipeline.protocols import EnvironmentBuilder, Generator, Sandbox
from pipeline.runs import RunFolder, RunRecord, RunStatus
from pipeline.telemetry import Emit, discard

_FINISHED: tuple[RunStatus, ...] = ("solved", "unsolved")


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """The edges of the graph: everything that reaches outside, and the settings."""

    generator: Generator
    strong: Generator | None = None  # a stronger one, for the rungs that ask for it
    sandbox: Sandbox
    environments: EnvironmentBuilder
    settings: Settings
    clone_cache: Path
    outcomes_path: Path | None = None  # where past rounds are kept for the policy; None: nowhere
    known_outcomes_path: Path | None = None  # those that the policy learns from; None: the same
    parts_path: Path | None = None  # where parsed sources are kept; None: nowhere
    scores_path: Path | None = None  # where the model's judgements of sources are kept; None: nowhere
    emit: Emit = discard
    num_sharing: int = 1  # tasks that share these edges: each may take as many times its wall seconds


async def run_task(task: Task, folder: RunFolder, deps: Dependencies) -> RunRecord:
    """Run the task to its end and return its record, which is saved to the folder after every node.

    A folder that holds a checkpoint of this task and these settings is resumed: nothing finished is redone.

    Raises:
        InputError: the task cannot be used, or the folder belongs to another task or other settings.
        RunBusyError: another process is working in the folder.
        EnvironmentBrokenError: the model, the sandbox or the target's environment failed.
    """
    with _only_process(folder):
        record = _record_of(task, folder, deps.settings)
        try:
            if record.status not in _FINISHED or record.finished_at is None:
                record = await _walk(record, make_tools(task, folder, deps))
            _drop_checkpoint(folder)
            return record
        except NothingToRepairError as exc:
            _save_end(folder, "nothing_to_repair", str(exc))
            raise
        except (asyncio.CancelledError, KeyboardInterrupt):
            _save_end(folder, "interrupted", "interrupted; it can be resumed")
            raise
        except LoopwrightError as exc:
            _save_end(folder, "failed", str(exc))
            raise
        except Exception as exc:
            _save_end(folder, "failed", f"{type(exc).__name__}: {exc}")
            raise


async def _walk(record: RunRecord, tools: Toolbox) -> RunRecord:
    """Walk the graph from its checkpoint to its end."""
    # Imported here: LangGraph takes longer to load than `loopwright --help` may take.
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    from pipeline.graph.build import build_graph

    config: Any = {
        "configurable": {"thread_id": tools.folder.run_id},
        "recursion_limit": recursion_limit(tools.settings.planner.ladder),
    }
    async with AsyncSqliteSaver.from_conn_string(str(tools.folder.checkpoint_path)) as saver:
        graph = build_graph(tools).compile(checkpointer=saver)
        kept = await graph.aget_state(config)
        if kept.values:
            _require_snapshot(load(kept.values).record, tools)
        fresh = record.model_copy(update={"status": "running", "reason": ""})
        start = None if kept.values else dump(Progress(record=fresh))
        state = await graph.ainvoke(start, config, durability="sync")
        return load(state).record


def make_tools(task: Task, folder: RunFolder, deps: Dependencies) -> Toolbox:
    """Return the tools of a run: its edges, those that cost something behind the folder's ledger."""
    known = deps.known_outcomes_path or deps.outcomes_path
    return Toolbox(
        task=task,
        settings=deps.settings,
        folder=folder,
        generator=LedgerGenerator(deps.generator, folder.ledger_path),
        strong=LedgerGenerator(deps.strong, folder.ledger_path) if deps.strong else None,
        sandbox=LedgerSandbox(deps.sandbox, folder.ledger_path),
        environments=deps.environments,
        clone_cache=deps.clone_cache,
        outcomes=OutcomeStore(deps.outcomes_path) if deps.outcomes_path else None,
        known_outcomes=OutcomeStore(known) if known else None,
        emit=deps.emit,
        parts_path=deps.parts_path,
        scores_path=deps.scores_path,
        num_sharing=deps.num_sharing,
    )


def _record_of(task: Task, folder: RunFolder, settings: Settings) -> RunRecord:
    """Return the folder's record, or a new one that is saved to it.

    Raises:
        InputError: the folder belongs to another task or other settings.
    """
    resolved = settings.model_dump(mode="json")
    if (folder.path / "trajectory.json").exists():
        record = folder.load()
        if record.task.model_dump(mode="json") != task.model_dump(mode="json"):
            raise InputError(f"run {folder.run_id} belongs to another task", hint="start a new run")
        if record.settings != resolved:
            raise InputError(
                f"run {folder.run_id} was made with other settings",
                hint="resume with the same, or start a new run",
            )
        return record
    record = RunRecord(
        run_id=folder.run_id,
        status="running",
        task=task,
        settings=resolved,
        versions={"loopwright": version("loopwright"), "python": platform.python_version()},
        started_at=datetime.now(UTC),
    )
    folder.save(record)
    return record


def _require_snapshot(record: RunRecord, tools: Toolbox) -> None:
    """Raise where the exported tree is no longer the one that the run has judged so far."""
    if record.tree_hash and tools.exported.tree_hash != record.tree_hash:
        raise InputError(
            f"the snapshot of run {tools.folder.run_id} was changed", hint="start a new run of the task"
        )


def _drop_checkpoint(folder: RunFolder) -> None:
    """Remove the checkpoint of a finished run: the trajectory tells all of it, in a fraction of the space."""
    for path in folder.path.glob(f"{folder.checkpoint_path.name}*"):
        path.unlink(missing_ok=True)


def _save_end(folder: RunFolder, status: RunStatus, reason: str) -> None:
    """Write into the last saved record how the run ended; the checkpoint still says where it goes on."""
    record = folder.load()
    folder.save(record.model_copy(update={"status": status, "reason": reason}))


@contextmanager
def _only_process(folder: RunFolder) -> Iterator[None]:
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.path / "run.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as exc:
        raise RunBusyError(
            f"run {folder.run_id} is being worked on by another process", hint="wait for it, or end it"
        ) from exc
    try:
        yield
    finally:
        lock.release()
