"""Judges patches that are there already, each by all tests of its task: those of a batch, or anybody's."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.bench.build import read_records
from pipeline.bench.verify import run_suite
from pipeline.core import PreparedEnvironment, Task, TestReport, TestStatus, Verdict, VerdictKind
from pipeline.exceptions import InputError
from pipeline.graph.nodes.prepare import means
from pipeline.owner import owned_folder
from pipeline.protocols import EnvironmentBuilder, Sandbox
from pipeline.snapshot import Snapshot
from pipeline.testrun import is_trusted, trusted_layer
from pipeline.verdict import judge
from pipeline.workspace import apply_patch, export_snapshot, with_history

_BAD = (TestStatus.FAILED, TestStatus.ERROR)


class Prediction(BaseModel):
    """A line of predictions.jsonl, as SWE-bench takes it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance_id: str
    model_patch: str | None = None  # none or empty: no answer was found


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a patch is worth by all tests of its task."""

    instance_id: str
    resolved: bool
    verdict: str  # a VerdictKind, or "no_patch", or "not_applied"
    num_fixed: int = 0  # fail_to_pass that pass now
    num_target: int = 0  # fail_to_pass in all
    num_broken: int = 0  # pass_to_pass that do not pass now
    num_kept: int = 0  # pass_to_pass that still pass
    reason: str = ""  # why it does not apply, or what fails first


def read_predictions(path: Path) -> dict[str, str]:
    """Return the patches of a file by instance, empty where there is none.

    Raises:
        InputError: it cannot be read, a line is no prediction, or an instance is there twice.
    """
    found = read_records(path, Prediction, id_field="instance_id", file="predictions", noun="prediction")
    return {instance_id: prediction.model_patch or "" for instance_id, prediction in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Judges patches in a sandbox."""

    sandbox: Sandbox
    environments: EnvironmentBuilder
    clone_cache: Path
    num_parallel: int = 1  # patches at once

    async def score_all(self, tasks: Sequence[Task], patches: Mapping[str, str]) -> list[Score]:
        """Return the score of every task that has a patch, in the tasks' order.

        Raises:
            InputError: a repository or a test command cannot be used.
            EnvironmentBrokenError: an environment cannot be made, or the sandbox failed.
        """
        slots = asyncio.Semaphore(self.num_parallel)

        async def one(task: Task) -> Score:
            async with slots:
                return await self.score(task, patches[task.task_id])

        chosen = [task for task in tasks if task.task_id in patches]
        try:
            async with asyncio.TaskGroup() as group:
                waiting = [group.create_task(one(task)) for task in chosen]
        except* Exception as errors:
            raise errors.exceptions[0] from None
        return [done.result() for done in waiting]

    async def score(self, task: Task, diff: str) -> Score:
        """Return what all tests of the task say of the patch.

        Tests and what configures them are the task's own, whatever the patch does to them.

        Raises:
            InputError: the repository or the test command cannot be used.
            EnvironmentBrokenError: the environment cannot be made, or the sandbox failed.
        """
        if not diff.strip():
            return Score(instance_id=task.task_id, resolved=False, verdict="no_patch")
        with owned_folder("score") as folder:
            base = await asyncio.to_thread(
                export_snapshot,
                task.repo,
                task.base_commit,
                folder / "base",
                test_patch=task.test_patch,
                clone_cache=self.clone_cache,
            )
            try:
                patched = await asyncio.to_thread(_patched, base, diff, folder / "patched")
            except InputError as exc:
                return Score(instance_id=task.task_id, resolved=False, verdict="not_applied", reason=str(exc))
            return _score(task, await self._verdict(task, base, patched))

    async def _verdict(self, task: Task, base: Snapshot, patched: Snapshot) -> Verdict:
        environment = await self.environments.prepare(base.root)
        layers = (*with_history(patched), trusted_layer(base))
        report = await run_suite(task, layers, base.paths, environment, self.sandbox, f"score-{task.task_id}")
        failing, passing, changes = task.fail_to_pass, task.pass_to_pass, frozenset[str]()
        if not failing or not passing or not _are_exact(failing, report) or report.runner_changes:
            failing, passing, changes = await self._on_base(task, base, environment)
        return judge(report, fail_to_pass=failing, pass_to_pass=passing, runner_changes=changes)

    async def _on_base(
        self, task: Task, base: Snapshot, environment: PreparedEnvironment
    ) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
        """Return which tests must pass, which must go on passing, and the base's changes of the test runner.

        They are run twice, so that none that is flaky counts.
        """
        layers = with_history(base)
        first, second = [
            await run_suite(
                task, layers, base.paths, environment, self.sandbox, f"score-{name}-{task.task_id}"
            )
            for name in ("base", "base-again")
        ]
        bad = first.ids(*_BAD) & second.ids(*_BAD)
        passing = first.ids(TestStatus.PASSED) & second.ids(TestStatus.PASSED)
        failing = [
            test_id
            for wanted in task.fail_to_pass
            for test_id in sorted(found for found in bad if means(wanted, found)) or [wanted]
        ]
        kept = task.pass_to_pass or tuple(sorted(passing))
        return tuple(failing or sorted(bad)), kept, first.runner_changes | second.runner_changes


def _are_exact(test_ids: Sequence[str], report: TestReport) -> bool:
    """Say whether the ids are those of tests, and not of what holds several."""
    return {*test_ids} <= {case.test_id for case in report.cases}


def _patched(base: Snapshot, diff: str, tree: Path) -> Snapshot:
    """Return a copy of the tree with the patch, less the tests and settings of tests that it adds."""
    shutil.copytree(base.root, tree, symlinks=True)
    apply_patch(tree, diff, seen=base)
    for path in {*Snapshot(tree, "").paths} - {*base.paths}:
        if is_trusted(path):
            (tree / path).unlink()
    return Snapshot(tree, base.commit)


def _score(task: Task, verdict: Verdict) -> Score:
    return Score(
        instance_id=task.task_id,
        resolved=verdict.kind is VerdictKind.RESOLVED,
        verdict=verdict.kind.value,
        num_fixed=verdict.num_fixed,
        num_target=verdict.num_target,
        num_broken=verdict.num_broken,
        num_kept=verdict.num_kept,
        reason=verdict.feedback,
    )
