"""Checks that a built task is what it claims, on this machine: which tests fail and which pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.core import Outcome, PreparedEnvironment, Task, TestReport, TestStatus
from pipeline.exceptions import SandboxError
from pipeline.protocols import EnvironmentBuilder, Sandbox
from pipeline.snapshot import Snapshot
from pipeline.testrun import build_request, parse_test_command, read_report
from pipeline.workspace import with_history


async def find_problems(task: Task, sandbox: Sandbox, environments: EnvironmentBuilder) -> list[str]:
    """Return what is wrong with a built task, in words; empty when it is sound. Its tests are run once.

    Raises:
        PrepareError: its environment cannot be made.
        SandboxError: the sandbox failed.
    """
    snapshot = Snapshot(Path(task.repo), "")
    environment = await environments.prepare(snapshot.root)
    report = await run_suite(
        task, with_history(snapshot), snapshot.paths, environment, sandbox, f"verify-{task.task_id}"
    )
    if report.problem:
        return [report.problem]
    failing, passing = report.ids(TestStatus.FAILED, TestStatus.ERROR), report.ids(TestStatus.PASSED)
    return [
        *(f"{test_id} does not fail" for test_id in task.fail_to_pass if test_id not in failing),
        *(f"{test_id} does not pass" for test_id in task.pass_to_pass if test_id not in passing),
    ]


async def run_suite(
    task: Task,
    layers: Sequence[bytes],
    paths: Collection[str],
    environment: PreparedEnvironment,
    sandbox: Sandbox,
    run_id: str,
) -> TestReport:
    """Return what the task's test command says of a tree, given as tar streams; `paths` are the base's files.

    Raises:
        SandboxError: the sandbox failed.
    """
    command = parse_test_command(task.test_command)
    request = build_request(
        command,
        environment=environment,
        layers=layers,
        limits=task.limits.sandbox,
        run_id=run_id,
        paths=tuple(paths),
    )
    report = read_report(await sandbox.run(request), command, paths)
    if report.outcome is Outcome.INFRA_ERROR:
        raise SandboxError(report.problem, hint="run `loopwright doctor`, then again")
    return report
