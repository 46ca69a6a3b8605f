"""Checks that a built case is what it claims: its tests fail for the bug and pass with the maintainers' fix.

Everything runs in a bubblewrap sandbox, in the environment that a run of loopwright would prepare.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.core import PreparedEnvironment, Task, TestReport, TestStatus
from pipeline.exceptions import PrepareError
from pipeline.protocols import EnvironmentBuilder, Sandbox
from pipeline.snapshot import Snapshot
from pipeline.testrun import build_request, parse_test_command, read_report
from pipeline.workspace import with_history

# These say that the test could not begin, or that what it tests is new: no bug.
_WRONG_REASON = re.compile(r"(ImportError|ModuleNotFoundError|fixture '.*' not found|has no attribute)")
_NUM_RUNS = 2  # of each release: a test whose outcome changes proves nothing


async def verify_cases(tasks: Sequence[Task], cache: Path) -> bool:
    """Print a line for each built case; return whether all are sound."""
    from workers.environment import PythonEnvironmentBuilder
    from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox

    sandbox = BubblewrapSandbox()
    environments = PythonEnvironmentBuilder(sandbox, cache, on_progress=_say)
    all_sound = True
    for task in tasks:
        problems = await find_problems(task, sandbox, environments)
        all_sound = all_sound and not problems
        print(f"{task.task_id}: {'; '.join(problems) or 'sound'}", flush=True)
    return all_sound


async def find_problems(task: Task, sandbox: Sandbox, environments: EnvironmentBuilder) -> list[str]:
    """Return what is wrong with a built case, in words; empty when it is sound."""
    repo = Path(task.repo)
    before = await _reports(task, repo, sandbox, environments)
    after = await _reports(task, repo.with_name("next"), sandbox, environments)
    problems = [report.problem for report in (*before, *after) if report.problem]
    problems += _unstable(before) + _unstable(after)
    return problems or _compared(task, before[0], after[0])


async def _reports(
    task: Task, tree: Path, sandbox: Sandbox, environments: EnvironmentBuilder
) -> list[TestReport]:
    try:
        environment = await environments.prepare(tree)
    except PrepareError as exc:
        raise PrepareError(f"{task.task_id}: {exc}", hint=exc.hint) from exc
    return [await _report(task, tree, sandbox, environment) for _ in range(_NUM_RUNS)]


async def _report(task: Task, tree: Path, sandbox: Sandbox, environment: PreparedEnvironment) -> TestReport:
    command = parse_test_command(task.test_command)
    snapshot = Snapshot(tree, commit="")
    request = build_request(
        command,
        environment=environment,
        layers=with_history(snapshot),
        limits=task.limits.sandbox,
        run_id=f"verify-{task.task_id}",
    )
    return read_report(await sandbox.run(request), command, snapshot.paths)


def _unstable(reports: Sequence[TestReport]) -> list[str]:
    first, *others = ({case.test_id: case.status for case in report.cases} for report in reports)
    changed = sorted(
        {test_id for other in others for test_id in first if other.get(test_id) != first[test_id]}
    )
    return [f"{test_id} does not end the same way each time" for test_id in changed]


def _compared(task: Task, before: TestReport, after: TestReport) -> list[str]:
    failed = {case.test_id: case for case in before.cases if case.status is TestStatus.FAILED}
    passed, passed_after = before.ids(TestStatus.PASSED), after.ids(TestStatus.PASSED)
    problems = []
    for test_id in task.fail_to_pass:
        if test_id not in failed:
            problems.append(f"{test_id} does not fail on the previous release")
        elif _WRONG_REASON.search(failed[test_id].message):
            problems.append(f"{test_id} fails for another reason: {failed[test_id].message}")
        if test_id not in passed_after:
            problems.append(f"{test_id} does not pass on the next release")
    return problems + [f"{test_id} broke in the next release" for test_id in sorted(passed - passed_after)]


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
