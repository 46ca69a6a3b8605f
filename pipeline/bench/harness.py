"""Runs a suite on a tree and on mutants of it, in a sandbox, and says what the tests notice."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.core import (
    Outcome,
    PreparedEnvironment,
    SandboxLimits,
    SandboxResult,
    TestCase,
    TestReport,
    TestStatus,
)
from pipeline.exceptions import InputError, PrepareError, SandboxError
from pipeline.ledger import LedgerSandbox
from pipeline.protocols import Sandbox
from pipeline.snapshot import Snapshot, tar_of
from pipeline.testrun import (
    COVERAGE_OPTIONS,
    WITHOUT_ADDOPTS,
    CoverageMap,
    TestCommand,
    build_request,
    explain_no_start,
    parse_test_command,
    read_map,
    read_report,
    under_coverage,
)
from pipeline.workspace import with_history

_BASE_LIMITS = SandboxLimits(
    wall_seconds=600.0, cpu_seconds=1200.0, memory_bytes=2 << 30, num_pids=512, file_bytes=64 << 20
)
_MAX_MUTANT_SECONDS = 120.0
_MAX_NAMED_FILES = 8  # in a task's test command
_MAX_FAILING = 60  # more failing tests than this name no place
_FEW_TESTS = 10  # of so few, half failing says little
_BAD = (TestStatus.FAILED, TestStatus.ERROR)


@dataclass(frozen=True, slots=True)
class Base:
    """What the tests say of the tree as it is."""

    passing: frozenset[str]  # in every run
    num_failing: int
    num_flaky: int
    coverage: CoverageMap
    wall_seconds: float  # of a run without coverage


@dataclass(frozen=True, slots=True)
class Noticed:
    """What the tests say of a mutant."""

    verdict: str  # "killed", or why it is dropped: survived, flaky, hangs, trivial
    failing: tuple[str, ...] = ()  # passed on the base
    passing: tuple[str, ...] = ()  # in the task's own command
    symptom: str = ""  # the exception line of the first failing test


class Harness:
    """The tests of one tree, in one environment."""

    def __init__(
        self,
        snapshot: Snapshot,
        environment: PreparedEnvironment,
        sandbox: Sandbox,
        *,
        test_command: str,
        ledger: Path,
    ) -> None:
        """Keep finished runs in the folder `ledger`, so that what was killed goes on where it was.

        Raises:
            InputError: the test command cannot be read, or does not run pytest.
        """
        self._snapshot = snapshot
        self._environment = environment
        self._sandbox = LedgerSandbox(sandbox, ledger)
        self._command = parse_test_command(test_command)
        if self._command.runner != "pytest":
            raise InputError(
                f"the test command {test_command!r} does not run pytest",
                hint="which tests reach which lines can only be told of pytest",
            )

    async def base(self) -> Base:
        """Run the suite twice, once under coverage.

        Raises:
            InputError: there are no tests, none passes, or they do not end.
            PrepareError: the tests need what is not installed.
            SandboxError: the sandbox failed.
        """
        plain = await self._require_report("base")
        covered, coverage = await self._covered()
        passing = plain.ids(TestStatus.PASSED)
        stable = passing & covered.ids(TestStatus.PASSED)
        if not stable:
            raise InputError("no test passes in two runs", hint="run the suite by hand and mend it first")
        return Base(stable, len(plain.ids(*_BAD)), len(passing - stable), coverage, plain.wall_seconds)

    async def try_mutant(self, base: Base, files: Mapping[str, bytes], tests: Collection[str]) -> Noticed:
        """Run the test functions that reach a mutation, and where any fails the task's own command.

        The second run is what a repair will begin with, so it must say the same as the first.

        Raises:
            SandboxError: the sandbox failed.
        """
        limits = _mutant_limits(base)
        first, _ = await self._run("first", files=files, tests=tests, limits=limits)
        if verdict := _spoilt(first):
            return Noticed(verdict)
        failing, passing = _split(first, base)
        selected = {test_id for test_id in base.passing if test_id.partition("[")[0] in tests}
        if not failing and selected <= passing:
            return Noticed("survived")
        command = parse_test_command(self.narrowed(tests))
        second, _ = await self._run("second", files=files, limits=limits, command=command)
        if verdict := _spoilt(second):
            return Noticed(verdict)
        failing_again, passing = _split(second, base)
        # A test that is not there any more is as little evidence as one that ends in two ways.
        if failing_again != failing or not failing or not selected <= failing | passing:
            return Noticed("flaky")
        if _is_trivial(failing, base):
            return Noticed("trivial")
        case = min((case for case in first.cases if case.test_id in failing), key=lambda case: case.test_id)
        return Noticed("killed", tuple(sorted(failing)), tuple(sorted(passing)), case.message)

    def narrowed(self, tests: Collection[str]) -> str:
        """Return the test command on the files of these tests alone, where they are few."""
        files = sorted({test_id.partition("::")[0] for test_id in tests})
        if len(files) > _MAX_NAMED_FILES or any(not name.startswith("-") for name in self._command.argv):
            words = ["python", "-m", "pytest", *self._command.argv]
        else:
            words = ["python", "-m", "pytest", *self._command.argv, *files]
        return shlex.join([*(f"{name}={value}" for name, value in self._command.env.items()), *words])

    async def _covered(self) -> tuple[TestReport, CoverageMap]:
        for options in (COVERAGE_OPTIONS, (*COVERAGE_OPTIONS, *WITHOUT_ADDOPTS)):
            report, result = await self._run("covered", options=options, wrapped=True, limits=_BASE_LIMITS)
            if (coverage := read_map(result, self._paths)) is not None and coverage.tests:
                return report, coverage
        raise PrepareError(
            f"coverage of the tests cannot be had: {_last_line(report.output)}",
            hint="a suite that turns coverage off, or runs in other processes, cannot be used",
        )

    async def _require_report(self, name: str) -> TestReport:
        report, _ = await self._run(name, limits=_BASE_LIMITS)
        if report.outcome is not Outcome.EXITED:
            raise InputError(
                f"the tests cannot be judged: {report.problem}",
                hint="narrow the suite with --test-command, such as 'python -m pytest tests/unit'",
            )
        failures = [case for case in report.cases if case.status in _BAD]
        if not report.ids(TestStatus.PASSED):
            if error := explain_no_start(report, failures, self._paths):
                raise error
            found = f"{len(failures)} fail" if failures else "there are none"
            raise InputError(
                f"no test passes: {found}" + (f" ({failures[0].message})" if failures else ""),
                hint="bugs are injected into what works: mend the suite, or narrow it with --test-command",
            )
        return report

    async def _run(
        self,
        name: str,
        *,
        limits: SandboxLimits,
        files: Mapping[str, bytes] | None = None,
        tests: Collection[str] | None = None,
        options: Sequence[str] = (),
        wrapped: bool = False,
        command: TestCommand | None = None,
    ) -> tuple[TestReport, SandboxResult]:
        command = command or self._command
        request = build_request(
            command,
            environment=self._environment,
            layers=(*self._layers, *((tar_of(files),) if files else ())),
            limits=limits,
            run_id=f"bench-{name}",
            test_ids=tests,
            options=options,
            paths=self._snapshot.paths,
        )
        if wrapped:
            request = under_coverage(request)
        result = await self._sandbox.run(request)
        if result.outcome is Outcome.INFRA_ERROR:
            raise SandboxError(
                f"the sandbox failed: {result.error}", hint="run `loopwright doctor`, then again"
            )
        return read_report(result, command, self._paths), result

    @cached_property
    def _layers(self) -> tuple[bytes, ...]:
        return with_history(self._snapshot)

    @cached_property
    def _paths(self) -> frozenset[str]:
        return frozenset(self._snapshot.paths)


def _mutant_limits(base: Base) -> SandboxLimits:
    seconds = min(4 * base.wall_seconds + 10, _MAX_MUTANT_SECONDS)
    return SandboxLimits(wall_seconds=seconds, cpu_seconds=2 * seconds)


def _spoilt(report: TestReport) -> str:
    """Return why a run can be no bug's: it does not end, or nothing can be imported."""
    if report.outcome is not Outcome.EXITED:
        return "hangs"
    is_no_run = bool(report.problem) or not report.cases
    return "trivial" if is_no_run or any(_is_collection_error(case) for case in report.cases) else ""


def _is_collection_error(case: TestCase) -> bool:
    return case.status is TestStatus.ERROR and "::" not in case.test_id


def _is_trivial(failing: Collection[str], base: Base) -> bool:
    """Say whether so much breaks that a bug would be seen at once."""
    share = len(failing) / len(base.passing)
    is_all = len(base.passing) > 1 and share == 1
    return is_all or len(failing) > _MAX_FAILING or (len(base.passing) >= _FEW_TESTS and share > 0.5)


def _split(report: TestReport, base: Base) -> tuple[frozenset[str], frozenset[str]]:
    """Return which tests of those that pass on the base fail here, and which pass."""
    return report.ids(*_BAD) & base.passing, report.ids(TestStatus.PASSED) & base.passing


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
