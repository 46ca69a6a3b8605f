"""In which runs of the tests a candidate is judged: cheap ones first, and no further than they leave open.

Pure functions of the baseline. Most suites are so quick that a run is its start and its imports: there the
failing tests run at once, then everything. Only what takes seconds is split further.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.core import TestReport, Verdict, VerdictKind
from pipeline.runs import BaselineRecord

_SLOW_SECONDS = 5.0  # targets, or a suite, that take less are not split: one more run costs as much
_QUICK_SHARE = 0.25  # of the targets' time that the quick ones may take together
_MAX_FILES_SHARE = 0.5  # of the suite: more of it in the targets' own files is nearly all of it


@dataclass(frozen=True)
class Look:
    """One run of tests on a candidate."""

    name: str  # "quick", "fast", "files", "full"
    test_ids: tuple[str, ...] | None = None  # None: the whole command
    pass_to_pass: tuple[str, ...] = ()  # what must go on passing in it


def looks(baseline: BaselineRecord, *, can_select: bool) -> Iterator[Look]:
    """Yield the runs of a candidate, cheapest first; `can_select`: the command can run some tests alone."""
    targets = tuple(baseline.fail_to_pass)
    if can_select and baseline.pass_to_pass:
        if quick := _quick_targets(baseline):
            yield Look("quick", quick)
        yield Look("fast", targets)
        yield from _files_of(targets, baseline)
    yield Look("full", None, tuple(baseline.pass_to_pass))


def is_settled(look: Look, verdict: Verdict, report: TestReport, baseline: BaselineRecord) -> bool:
    """Say whether the candidate needs no further run."""
    if look.name == "quick" and verdict.kind is VerdictKind.UNCHANGED:
        return _shows_nothing_new(look, report, baseline)
    return look.name == "full" or verdict.kind not in (VerdictKind.RESOLVED, VerdictKind.PARTIAL)


def _files_of(targets: tuple[str, ...], baseline: BaselineRecord) -> Iterator[Look]:
    """Yield a run of the targets' files, where that is much less than all: most of what breaks is there."""
    files = tuple(sorted({test_id.partition("::")[0] for test_id in targets}))
    kept = tuple(test_id for test_id in baseline.pass_to_pass if test_id.partition("::")[0] in files)
    is_small = 0 < len(kept) <= _MAX_FILES_SHARE * len(baseline.pass_to_pass)
    if baseline.wall_seconds >= _SLOW_SECONDS and is_small:
        yield Look("files", files, kept)


def _quick_targets(baseline: BaselineRecord) -> tuple[str, ...]:
    """Return the quickest of the failing tests, or none where they take no time worth splitting."""
    targets = frozenset(baseline.fail_to_pass)
    seconds = {case.test_id: case.seconds for case in baseline.failures if case.test_id in targets}
    total = sum(seconds.values())
    if total < _SLOW_SECONDS or len(seconds) < len(targets):
        return ()
    quick, used = list[str](), 0.0
    for test_id in sorted(seconds, key=lambda test_id: (seconds[test_id], test_id)):
        used += seconds[test_id]
        if used <= _QUICK_SHARE * total:
            quick.append(test_id)
    return tuple(quick)


def _shows_nothing_new(look: Look, report: TestReport, baseline: BaselineRecord) -> bool:
    """Say whether every test of the look fails just as it did on the base: then the slow ones will too.

    A candidate that repairs a slow test and leaves no trace in any quick one is missed; that is the price.
    """
    before = {case.test_id: case.message for case in baseline.failures}
    after = {case.test_id: case.message for case in report.cases}
    return all(after.get(test_id) == before[test_id] for test_id in look.test_ids or ())
