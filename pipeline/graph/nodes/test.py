"""test: every candidate in its own sandbox, the failing tests first. judge: what the round has come to."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace

from pipeline.core import SandboxLimits, Verdict, VerdictKind
from pipeline.draft.source import apply_edit, dedent
from pipeline.exceptions import SandboxError
from pipeline.graph.routing import limit_reached
from pipeline.graph.state import Attempt, Progress, suspect_key
from pipeline.graph.toolbox import Toolbox
from pipeline.runs import CandidateRecord
from pipeline.telemetry import Action
from pipeline.verdict import changed_tests
from pipeline.verdict import judge as judge_report

# Feedback helps with these (research: name errors are mended far more often than wrong logic).
_MENDABLE = ("syntax", "import", "name", "type")


async def test(tools: Toolbox, progress: Progress) -> None:
    """Give every candidate of the round a verdict, until one resolves or time is up.

    Raises:
        SandboxError: the sandbox failed for every candidate.
    """
    waiting = deque(r for r in progress.round.candidates if r.candidate.candidate_id in progress.edits)
    total = len(waiting)
    started = time.monotonic()

    async def work() -> None:
        while waiting and not _is_resolved(progress):
            if tools.seconds_left(progress) <= 0:
                progress.limit = "wall_seconds"
                return
            await _test_candidate(tools, progress, waiting.popleft())
            done = total - len(waiting)
            tools.say(Action.PROGRESS, "testing", stage="test", done=done, total=total, unit="candidates")

    workers = [asyncio.create_task(work()) for _ in range(tools.settings.sandbox.num_parallel)]
    try:
        await asyncio.gather(*workers)
    finally:  # one that failed must not leave the others running
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    progress.round.test_seconds = time.monotonic() - started
    _require_evidence(progress)


async def judge(tools: Toolbox, progress: Progress) -> None:
    """Keep the best failing attempt of each suspect, and name the limit that allows no further round."""
    for entry in progress.round.candidates:
        attempt = _attempt(progress, entry)
        key = suspect_key(entry.candidate.suspect)
        if attempt and (key not in progress.attempts or attempt.rank < progress.attempts[key].rank):
            progress.attempts[key] = attempt
    progress.limit = progress.limit or limit_reached(
        progress.record,
        tools.task.limits,
        seconds_used=tools.seconds_used(progress),
        num_rungs=len(tools.settings.planner.ladder),
    )


async def verdict_on(
    tools: Toolbox, progress: Progress, name: str, path: str, content: bytes
) -> tuple[Verdict, dict[str, str]]:
    """Return the verdict on a file's new content, and the tests whose status it changes.

    The failing tests run first, alone; only what passes them is worth the whole command.
    """
    baseline = progress.record.baseline
    assert baseline is not None
    before = {
        **dict.fromkeys(baseline.pass_to_pass, "passed"),
        **dict.fromkeys(baseline.fail_to_pass, "failed"),
    }
    files, limits = {path: content}, _candidate_limits(tools, baseline.wall_seconds)
    seconds = 0.0
    if tools.command.runner == "pytest" and baseline.pass_to_pass:
        _, report = await tools.run_tests(
            progress, f"{name}-fast", files=files, test_ids=baseline.fail_to_pass, limits=limits
        )
        verdict = judge_report(report, fail_to_pass=baseline.fail_to_pass)
        if verdict.kind is not VerdictKind.RESOLVED:
            return verdict, changed_tests(before, report)
        seconds = verdict.wall_seconds
    _, report = await tools.run_tests(progress, f"{name}-full", files=files, limits=limits)
    verdict = judge_report(report, fail_to_pass=baseline.fail_to_pass, pass_to_pass=baseline.pass_to_pass)
    return replace(verdict, wall_seconds=verdict.wall_seconds + seconds), changed_tests(before, report)


async def _test_candidate(tools: Toolbox, progress: Progress, entry: CandidateRecord) -> None:
    candidate_id, path = entry.candidate.candidate_id, entry.candidate.suspect.path
    content = apply_edit(tools.snapshot.read_bytes(path), progress.edits[candidate_id])
    entry.verdict, entry.tests_changed = await verdict_on(tools, progress, candidate_id, path, content)
    verdict = entry.verdict
    tools.say(
        Action.CANDIDATE_JUDGED,
        f"{candidate_id} {verdict.kind.value}: {verdict.num_fixed} of {verdict.num_target} fixed",
        candidate_id=candidate_id,
        verdict=verdict.kind.value,
        num_fixed=verdict.num_fixed,
        num_target=verdict.num_target,
    )


def _candidate_limits(tools: Toolbox, baseline_seconds: float) -> SandboxLimits:
    """Return the limits of one run: a candidate that takes far longer than the base did will not end."""
    limits = tools.task.limits.sandbox
    return limits.model_copy(update={"wall_seconds": min(limits.wall_seconds, 5 * baseline_seconds + 10)})


def _is_resolved(progress: Progress) -> bool:
    return any(r.verdict and r.verdict.kind is VerdictKind.RESOLVED for r in progress.round.candidates)


def _require_evidence(progress: Progress) -> None:
    kinds = {r.verdict.kind for r in progress.round.candidates if r.verdict}
    if kinds == {VerdictKind.INFRA_ERROR}:
        raise SandboxError(
            "the sandbox failed for every candidate", hint="run `loopwright doctor`, then resume this run"
        )


def _attempt(progress: Progress, entry: CandidateRecord) -> Attempt | None:
    verdict = entry.verdict
    if verdict is None or not verdict.feedback:
        return None
    partial, mendable = verdict.kind is VerdictKind.PARTIAL, verdict.failure_class in _MENDABLE
    return Attempt(
        rank=0 if partial else 1 if mendable else 2,
        code=dedent(progress.edits[entry.candidate.candidate_id].text).rstrip(),
        error=verdict.feedback,
    )
