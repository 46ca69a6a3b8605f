"""scaffold: definitions that failing tests ask for and the tree has not get a stub, for drafts to fill."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pipeline.change import change_between
from pipeline.context.missing import Missing, find_missing
from pipeline.context.scaffold import scaffolded
from pipeline.core import TestReport, TestStatus
from pipeline.graph.nodes.prepare import CHEAP_SECONDS, clipped, differing, means
from pipeline.graph.state import Progress
from pipeline.graph.toolbox import Toolbox, require_sandbox
from pipeline.patch import diff_of
from pipeline.runs import BaselineRecord, ScaffoldRecord
from pipeline.telemetry import Action
from pipeline.testrun import COMMAND_ID, is_trusted

_MAX_TURNS = 4  # behind one missing definition another may show
_BAD = (TestStatus.FAILED, TestStatus.ERROR)


async def scaffold(tools: Toolbox, progress: Progress) -> None:
    """Lay stubs of missing definitions over the tree, and see which tests fail for want of what they do.

    A test file that could not even be collected has a result for each of its tests then.
    """
    added: list[Missing] = []
    before = progress.record.baseline
    assert before is not None
    if tools.command.runner != "pytest" or any(c.message.startswith("Timeout") for c in before.failures):
        return
    for turn in range(1, _MAX_TURNS + 1):
        found = await _laid_further(tools, progress, turn)
        added += found
        if not found:
            break
    if added:
        _tell(tools, progress, added, before)


async def _laid_further(tools: Toolbox, progress: Progress, turn: int) -> tuple[Missing, ...]:
    """Add stubs for what the tests miss now, and return what they are for; none where that helps nothing."""
    baseline, laid = progress.record.baseline, progress.laid
    assert baseline is not None
    implements = tools.task.kind == "implement"
    named = tools.task.functions if implements else ()  # else it must be there
    missing = find_missing(tools.snapshot, baseline.failures, functions=named, implements=implements)
    missing = tuple(one for one in missing if not is_trusted(one.path))  # no draft may change a test
    files = scaffolded(tools.snapshot, missing)
    if not files:
        return ()
    tools.lay(laid | files)
    after = await _baseline_on_stubs(tools, progress, turn)
    if after is None:
        tools.lay(laid)
        return ()
    progress.laid, progress.record.baseline = laid | files, after
    return tuple(one for one in missing if one.path in files)


async def _baseline_on_stubs(tools: Toolbox, progress: Progress, turn: int) -> BaselineRecord | None:
    """Return what the tests say of the tree with the stubs, or None where these break or satisfy them."""
    _, report = await tools.run_tests(progress, f"scaffold-{turn}")
    require_sandbox(report)
    flaky: frozenset[str] = frozenset()
    if report.wall_seconds < CHEAP_SECONDS:
        _, again = await tools.run_tests(progress, f"scaffold-{turn}-again")
        flaky = differing(report, again)
    baseline = progress.record.baseline
    assert baseline is not None
    return _refined(baseline, report, flaky)


def _refined(baseline: BaselineRecord, report: TestReport, flaky: Collection[str]) -> BaselineRecord | None:
    """Return the baseline with a result for each test of the targets' files, where some still fail."""
    statuses = {case.test_id: case.status for case in report.cases if case.test_id not in flaky}
    kept = [test_id for test_id in baseline.pass_to_pass if test_id not in flaky]
    if any(statuses.get(test_id) is not TestStatus.PASSED for test_id in kept):
        return None
    failing, passing = list[str](), list[str]()
    for target in baseline.fail_to_pass:
        inside = [test_id for test_id in statuses if target == COMMAND_ID or means(target, test_id)]
        failing += [test_id for test_id in inside if statuses[test_id] in _BAD] if inside else [target]
        passing += [test_id for test_id in inside if statuses[test_id] is TestStatus.PASSED]
    failures = [case for case in report.cases if case.test_id in failing]
    if not failures:
        return None
    return BaselineRecord(
        fail_to_pass=failing,
        pass_to_pass=sorted({*kept, *passing}),
        failures=clipped(failures),
        output=report.output,
        wall_seconds=report.wall_seconds,
        cpu_seconds=report.cpu_seconds,
        runner_changes=sorted({*baseline.runner_changes, *report.runner_changes}),
    )


def _tell(tools: Toolbox, progress: Progress, added: Sequence[Missing], before: BaselineRecord) -> None:
    """Keep what was added in the record, and say it."""
    old = tools.laid_sources
    change = change_between(old, {path: tools.snapshot.read_bytes(path) for path in old})
    names = [f"{one.path}::{one.qualname}" for one in added]
    diff = diff_of(change, tools.exported.read_bytes)
    progress.record.scaffold = ScaffoldRecord(added=names, diff=diff, baseline=before)
    baseline = progress.record.baseline
    assert baseline is not None
    num_failing, num_passing = len(baseline.fail_to_pass), len(baseline.pass_to_pass)
    verb = "does not exist yet and is" if len(names) == 1 else "do not exist yet and are"
    tools.say(
        Action.BASELINE,
        f"{', '.join(names)} {verb} to be written, for {num_failing} failing tests",
        num_failing=num_failing,
        num_passing=num_passing,
    )
