"""prepare: export the tree, install what it needs, and see what its tests say before anything is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.core import Outcome, Task, TestCase, TestReport, TestStatus
from pipeline.exceptions import InputError, NothingToRepairError
from pipeline.graph.state import Progress
from pipeline.graph.toolbox import Toolbox, require_sandbox
from pipeline.runs import BaselineRecord
from pipeline.telemetry import Action
from pipeline.testrun import (
    COMMAND_ID,
    explain_no_start,
    hang_options,
    hung_test,
    is_trusted,
    missing_module,
)
from pipeline.workspace import export_snapshot

_BAD = (TestStatus.FAILED, TestStatus.ERROR)
CHEAP_SECONDS = 10.0  # a baseline that is quicker is run twice, to find tests that are flaky
_MAX_HANGING_TESTS = 3
_MAX_DETAILED_FAILURES = 10  # kept with their traceback; more would only swell the checkpoint


async def prepare(tools: Toolbox, progress: Progress) -> None:
    """Fill in the snapshot's identity, the environment and the baseline.

    Raises:
        InputError: the repository, the test command or the named tests cannot be used.
        NothingToRepairError: the target tests pass.
        EnvironmentBrokenError: the environment or the sandbox failed.
    """
    _ = tools.command  # a command that cannot be read is refused before anything costs time
    task, record = tools.task, progress.record
    snapshot = await asyncio.to_thread(
        export_snapshot,
        task.repo,
        task.base_commit,
        tools.snapshot_path,
        test_patch=task.test_patch,
        clone_cache=tools.clone_cache,
    )
    for warning in snapshot.warnings:
        tools.say(Action.WARNING, warning)
    record.base_commit, record.tree_hash = snapshot.commit, snapshot.tree_hash
    progress.environment = await tools.environments.prepare(snapshot.root)
    record.baseline = await _baseline(tools, progress)
    tools.say(
        Action.BASELINE,
        f"{len(record.baseline.fail_to_pass)} failing tests to repair, "
        f"{len(record.baseline.pass_to_pass)} passing tests to keep",
        num_failing=len(record.baseline.fail_to_pass),
        num_passing=len(record.baseline.pass_to_pass),
    )


@dataclass(frozen=True)
class _Seen:
    """What the baseline runs showed together."""

    report: TestReport
    failures: tuple[TestCase, ...]  # those of tests that hang included
    passing: frozenset[str]
    flaky: frozenset[str]


async def _baseline(tools: Toolbox, progress: Progress) -> BaselineRecord:
    seen = await _observe(tools, progress)
    targets = _targets(tools.task, seen)
    failures = [case for case in seen.failures if _belongs(case.test_id, targets)]
    missing = [case for case in failures if missing_module(case.details, tools.paths)]
    if missing and not tools.task.fail_to_pass:  # no patch brings a package: these are left out
        tools.say(Action.WARNING, f"{len(missing)} tests need packages that are not installed; left out")
        failures = [case for case in failures if case not in missing]
        targets = [t for t in targets if t not in {case.test_id for case in missing}]
    wanted = set(tools.task.pass_to_pass) or seen.passing
    return BaselineRecord(
        fail_to_pass=targets,
        pass_to_pass=sorted((wanted & seen.passing) - seen.flaky),
        failures=clipped(failures),
        output=seen.report.output,
        wall_seconds=seen.report.wall_seconds,
        cpu_seconds=seen.report.cpu_seconds,
        runner_changes=sorted(seen.report.runner_changes),
    )


async def _observe(tools: Toolbox, progress: Progress) -> _Seen:
    report, hanging = await _run_past_hangs(tools, progress)
    failures = (*hanging, *(case for case in report.cases if case.status in _BAD))
    passing, flaky = report.ids(TestStatus.PASSED), frozenset[str]()
    if not failures and not report.problem:
        if may_reproduce(tools):
            return _Seen(report, (), passing, flaky)
        raise NothingToRepairError("every test passes already", hint=_nothing_hint(tools.task))
    _require_start(report, failures, tools.paths)
    if not failures:  # a conftest that the code itself breaks: the command as a whole is the target
        failures = (_whole_command(report),)
    elif not hanging and report.wall_seconds < CHEAP_SECONDS:
        _, again = await tools.run_tests(progress, "baseline-again")
        flaky = differing(report, again)
        if flaky:
            tools.say(Action.WARNING, f"{len(flaky)} tests are flaky and are left out: {min(flaky)}, ...")
    failures = tuple(case for case in failures if case.test_id not in flaky)
    if not failures and not may_reproduce(tools):
        raise NothingToRepairError(
            "the failing tests pass when they are run again: they are flaky",
            hint="name one that always fails",
        )
    return _Seen(report, failures, passing, flaky)


def may_reproduce(tools: Toolbox) -> bool:
    """Say whether a test may be drafted from the issue where no failing test belongs to it."""
    task = tools.task
    says_what = bool(task.statement.strip()) and not task.fail_to_pass
    return says_what and task.kind == "fix" and tools.command.runner == "pytest"


def _nothing_hint(task: Task) -> str:
    if task.kind == "implement":
        return "write a test that fails until it is there"
    return "name the failing test's command, or say what is wrong with --issue"


async def _run_past_hangs(tools: Toolbox, progress: Progress) -> tuple[TestReport, tuple[TestCase, ...]]:
    """Run the tests; one that hangs and can be named counts as failing, and the rest is run without it."""
    limits = tools.task.limits.sandbox
    options: tuple[str, ...] = hang_options(limits)
    _, report = await tools.run_tests(progress, "baseline", options=options)
    hanging: list[TestCase] = []
    while report.outcome is Outcome.TIMED_OUT and len(hanging) < _MAX_HANGING_TESTS:
        test_id = hung_test(report, _test_sources(tools))
        if not test_id or any(case.test_id == test_id for case in hanging):
            break
        tools.say(Action.WARNING, f"{test_id} does not end; it counts as failing")
        hanging.append(_hanging_case(test_id, report))
        options = (*options, f"--deselect={test_id}")
        _, report = await tools.run_tests(progress, f"baseline-{len(hanging)}", options=options)
    require_sandbox(report)
    if report.outcome is not Outcome.EXITED:
        raise InputError(
            f"the tests cannot be judged: {report.problem}",
            hint="narrow the test command, or raise the limits of the sandbox",
        )
    return report, tuple(hanging)


def _require_start(report: TestReport, failures: Sequence[TestCase], paths: Collection[str]) -> None:
    """Raise where the suite could not start for a reason that no patch can mend."""
    hanging_only = bool(failures) and not report.cases
    if hanging_only:
        return
    if error := explain_no_start(report, failures, paths):
        raise error
    if report.problem and not failures and "while loading conftest" not in report.output:
        raise InputError(f"the tests cannot be judged: {report.problem}", hint="run the command by hand")


def _targets(task: Task, seen: _Seen) -> list[str]:
    """Return the ids that must pass in the end.

    Raises:
        InputError: the task names tests that pass or do not exist.
    """
    failing = [case.test_id for case in seen.failures]
    if not task.fail_to_pass:
        return failing
    targets: list[str] = []
    passing: list[str] = []
    for wanted in task.fail_to_pass:
        found = [test_id for test_id in failing if means(wanted, test_id)]
        if found:
            targets += found
        elif wanted.partition("::")[0] in failing:
            targets.append(wanted)  # its file cannot be collected, so it has no result yet
        elif any(means(wanted, test_id) for test_id in seen.flaky):
            raise InputError(f"{wanted} is flaky: it fails and passes", hint="take it out of fail_to_pass")
        elif any(means(wanted, test_id) for test_id in seen.passing):
            passing.append(wanted)
        else:
            raise InputError(f"the test command runs no test {wanted}", hint="check fail_to_pass")
    if passing and not targets:
        raise NothingToRepairError(f"{passing[0]} passes already, and so do all tests of fail_to_pass")
    if passing:
        raise InputError(f"{passing[0]} passes already on the base", hint="take it out of fail_to_pass")
    return list(dict.fromkeys(targets))


def means(wanted: str, test_id: str) -> bool:
    """Say whether an id of the task means this test: itself, a case of it, or a test of a file or class."""
    return test_id == wanted or test_id.startswith((f"{wanted}[", f"{wanted}::"))


def _belongs(test_id: str, targets: Iterable[str]) -> bool:
    return any(test_id == target or target.startswith(f"{test_id}::") for target in targets)


def clipped(failures: Iterable[TestCase]) -> list[TestCase]:
    """Return the failures as a record keeps them: the first ones with their traceback."""
    return [
        case if i < _MAX_DETAILED_FAILURES else replace(case, details="") for i, case in enumerate(failures)
    ]


def differing(first: TestReport, second: TestReport) -> frozenset[str]:
    """Return the tests that two runs of the same files disagree on."""
    before = {case.test_id: case.status for case in first.cases}
    after = {case.test_id: case.status for case in second.cases}
    if not after:
        return frozenset()  # the second run says nothing
    return frozenset(test_id for test_id in before if after.get(test_id) is not before[test_id])


def _whole_command(report: TestReport) -> TestCase:
    return TestCase(
        test_id=COMMAND_ID, status=TestStatus.ERROR, message=report.problem, details=report.output
    )


def _hanging_case(test_id: str, report: TestReport) -> TestCase:
    # The dump names the innermost call first; every other traceback names it last.
    frames = [line for line in report.output.splitlines() if line.startswith('  File "')]
    return TestCase(
        test_id=test_id,
        status=TestStatus.FAILED,
        message=f"Timeout: the test did not end within {report.wall_seconds:.0f} seconds",
        details="\n".join([*reversed(frames), f"E   Timeout after {report.wall_seconds:.0f} seconds"]),
        seconds=report.wall_seconds,
    )


def _test_sources(tools: Toolbox) -> dict[str, str]:
    paths = [path for path in tools.snapshot.python_paths if is_trusted(path)]
    return {path: tools.snapshot.read_bytes(path).decode("utf-8", "replace") for path in paths}
