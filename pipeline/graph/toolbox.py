"""What nodes use: the edges behind their ledger, the snapshot, the clock, and one way to run the tests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.change import apply_change
from pipeline.config import Rung, Settings
from pipeline.core import (
    Message,
    Outcome,
    Prompt,
    SandboxLimits,
    SandboxResult,
    Task,
    TestReport,
)
from pipeline.exceptions import InputError, SandboxError
from pipeline.graph.state import Progress
from pipeline.ledger import LedgerGenerator, LedgerSandbox
from pipeline.policy.store import OutcomeStore
from pipeline.protocols import EnvironmentBuilder
from pipeline.runs import RunFolder
from pipeline.snapshot import Snapshot, tar_of
from pipeline.telemetry import Action, Emit, Event
from pipeline.testrun import (
    TestCommand,
    build_request,
    is_trusted,
    parse_test_command,
    read_report,
    trusted_layer,
    under_coverage,
)
from pipeline.workspace import load_snapshot, with_history


@dataclass
class Toolbox:
    """One run's tools, in one process. Nothing in it outlives the process."""

    task: Task
    settings: Settings
    folder: RunFolder
    generator: LedgerGenerator
    strong: LedgerGenerator | None  # of the rungs that ask for it
    sandbox: LedgerSandbox
    environments: EnvironmentBuilder
    clone_cache: Path
    outcomes: OutcomeStore | None  # of past rounds, to which this run's are added
    known_outcomes: OutcomeStore | None  # what the policy learns from; None: nothing is learned
    emit: Emit
    parts_path: Path | None = None  # the file of parsed sources; None: nothing is kept
    scores_path: Path | None = None  # the file of finished judgements; None: nothing is kept
    num_sharing: int = 1  # tasks that share the engine and the sandboxes, this one included
    stage_started: float = field(default_factory=time.monotonic)
    _laid: Mapping[str, bytes] = field(default_factory=dict)
    _trees: dict[str, Snapshot] = field(default_factory=dict)  # the last footing's

    @cached_property
    def command(self) -> TestCommand:
        """The task's test command."""
        return parse_test_command(self.task.test_command)

    @property
    def snapshot_path(self) -> Path:
        """Where the exported tree lies."""
        return self.folder.path / "snapshot"

    def lay(self, files: Mapping[str, bytes]) -> None:
        """Make these files part of what every draft starts from and every run of the tests sees."""
        if files != self._laid:
            self._laid = dict(files)
            self._trees.clear()
            for name in ("snapshot", "paths", "_layers", "_trusted_layer"):
                self.__dict__.pop(name, None)

    @cached_property
    def snapshot(self) -> Snapshot:
        """What candidates change: the exported tree, with the files that the run has laid over it."""
        return self.exported.with_files(self._laid) if self._laid else self.exported

    @property
    def laid_sources(self) -> dict[str, bytes]:
        """The laid files that a patch must bring along, as they are in the exported tree."""
        return {path: self.exported.read_bytes(path) for path in self._laid if not is_trusted(path)}

    @cached_property
    def exported(self) -> Snapshot:
        """The tree as the user has it; `prepare` exported it, perhaps in an earlier process."""
        snapshot = load_snapshot(self.snapshot_path)
        if snapshot is None:
            raise InputError(
                f"run {self.folder.run_id} has lost its snapshot", hint="start a new run of the task"
            )
        return snapshot

    def tree(self, progress: Progress) -> Snapshot:
        """Return what the round's drafts start from: the snapshot, or the tree of a partial candidate."""
        footing = progress.footing
        if footing is None:
            return self.snapshot
        if footing.candidate_id not in self._trees:
            files = apply_change(footing.change, self.snapshot.read_bytes)
            self._trees = {footing.candidate_id: self.snapshot.with_files(files)}
        return self._trees[footing.candidate_id]

    @cached_property
    def paths(self) -> frozenset[str]:
        """The snapshot's files."""
        return frozenset(self.snapshot.paths)

    @cached_property
    def _layers(self) -> tuple[bytes, ...]:
        return with_history(self.snapshot)

    @cached_property
    def _trusted_layer(self) -> bytes:
        return trusted_layer(self.snapshot)

    def say(self, action: Action, message: str, **data: Any) -> None:
        """Report an event."""
        self.emit(Event(action, message, data))

    def seconds_left(self, progress: Progress) -> float:
        """Return what remains of the task's wall time; time between two processes of a run does not count."""
        return (self.task.limits.wall_seconds - self.seconds_used(progress)) * self.num_sharing

    def seconds_used(self, progress: Progress) -> float:
        """Return the task's share of the seconds of all finished stages and of this one."""
        finished = sum(progress.record.seconds_by_stage.values())
        return (finished + time.monotonic() - self.stage_started) / self.num_sharing

    def drafter(self, rung: Rung) -> LedgerGenerator:
        """Return the generator that drafts on this rung."""
        return self.strong if self.strong is not None and rung.model == "strong" else self.generator

    async def count_texts(self, texts: Sequence[str], rung: Rung) -> list[int]:
        """Return the number of tokens of each text by itself, without the chat template."""
        prompts = [Prompt((Message("user", text),)) for text in ("", *texts)]
        empty, *counts = await self.drafter(rung).count_tokens(prompts)
        return [count - empty for count in counts]

    async def run_tests(
        self,
        progress: Progress,
        name: str,
        *,
        files: Mapping[str, bytes] | None = None,
        test_ids: Iterable[str] | None = None,
        options: Sequence[str] = (),
        limits: SandboxLimits | None = None,
        with_coverage: bool = False,
    ) -> tuple[SandboxResult, TestReport]:
        """Run the test command, or some of its tests, on the snapshot with these files laid over it."""
        assert progress.environment is not None
        reproduction = progress.record.reproduction
        # The trusted files come last, so that no candidate has a say in its own verdict.
        over = (tar_of(files), self._trusted_layer) if files else ()
        request = build_request(
            self.command,
            environment=progress.environment,
            layers=(*self._layers, *over),
            limits=limits or self.task.limits.sandbox,
            run_id=f"{self.folder.run_id}-{name}",
            test_ids=test_ids,
            options=options,
            paths=self.snapshot.paths,
            also=(reproduction.path,) if reproduction and reproduction.path else (),
        )
        result = await self.sandbox.run(under_coverage(request) if with_coverage else request)
        progress.record.num_sandbox_runs += 1
        progress.record.sandbox_seconds += result.wall_seconds
        return result, read_report(result, self.command, self.paths | set(files or ()))


def require_sandbox(report: TestReport) -> None:
    """Raise where the sandbox failed.

    Raises:
        SandboxError: the run says nothing of the code.
    """
    if report.outcome is Outcome.INFRA_ERROR:
        raise SandboxError(report.problem, hint="run `loopwright doctor`, then resume this run")
