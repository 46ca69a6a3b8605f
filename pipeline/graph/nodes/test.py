"""test: every candidate in its own sandbox, the failing tests first. judge: what the round has come to."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from pipeline.change import apply_change
from pipeline.core import SandboxLimits, Verdict, VerdictKind
from pipeline.exceptions import SandboxError
from pipeline.graph.looks import is_settled, looks
from pipeline.graph.routing import limit_reached, next_rung
from pipeline.graph.state import Attempt, Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.runs import BaselineRecord, CandidateRecord
from pipeline.telemetry import Action
from pipeline.verdict import changed_tests
from pipeline.verdict import judge as judge_report

# Feedback helps with these (research: name errors are mended far more often than wrong logic).
_MENDABLE = ("syntax", "import", "name", "type")


async def test(tools: Toolbox, progress: Progress) -> None:
    """Give the round's candidates a verdict in drafting order, up to the first that resolves.

    However many are tested at once, the same one wins: those before it are tested to their end, those after
    it are stopped, and what was already found out about them does not count.

    Raises:
        SandboxError: the sandbox failed for every candidate.
    """
    entries = [r for r in progress.round.candidates if r.candidate.candidate_id in progress.drafted]
    entries.sort(key=lambda r: bool(r.candidate.overfit_risk))  # the first that resolves wins
    waiting = deque(enumerate(entries))
    at_work: dict[asyncio.Task[None] | None, int] = {}  # worker -> the number of its candidate
    started = time.monotonic()

    async def work() -> None:
        while waiting:
            if tools.seconds_left(progress) <= 0:
                progress.limit = "wall_seconds"
                return
            number, entry = waiting.popleft()
            at_work[asyncio.current_task()] = number
            await test_candidate(tools, progress, entry)
            if _is_resolved(entry):
                waiting.clear()
                for worker, other in at_work.items():
                    if worker is not None and other > number:
                        worker.cancel()
            data = {"stage": "test", "done": number + 1, "total": len(entries), "unit": "candidates"}
            tools.say(Action.PROGRESS, "testing", **data)

    await _all_of([asyncio.create_task(work()) for _ in range(tools.settings.sandbox.num_parallel)])
    progress.round.test_seconds = time.monotonic() - started
    _forget_later(entries)
    _require_evidence(progress)


async def judge(tools: Toolbox, progress: Progress) -> None:
    """Keep the best failing attempt of each suspect, and name the limit that allows no further round."""
    for entry in progress.round.candidates:
        if attempt := _attempt(progress, entry):
            progress.offer_attempt(entry.candidate.suspect, attempt)
    progress.next_rung = next_rung(tools.task, tools.settings.planner, progress)
    progress.limit = progress.limit or limit_reached(
        progress.record,
        tools.task.limits,
        seconds_used=tools.seconds_used(progress),
        num_rungs=len(tools.settings.planner.ladder),
    )


async def verdict_on(
    tools: Toolbox, progress: Progress, name: str, files: Mapping[str, bytes]
) -> tuple[Verdict, dict[str, str]]:
    """Return the verdict on these files laid over the base, and the tests whose status they change.

    The failing tests run first, alone; only what passes some of them is worth more (see `looks`).
    """
    baseline = progress.record.baseline
    assert baseline is not None
    before = {
        **dict.fromkeys(baseline.pass_to_pass, "passed"),
        **dict.fromkeys(baseline.fail_to_pass, "failed"),
    }
    limits = _candidate_limits(tools, baseline)
    seconds = 0.0
    for look in looks(baseline, can_select=tools.command.runner == "pytest"):
        _, report = await tools.run_tests(
            progress, f"{name}-{look.name}", files=files, test_ids=look.test_ids, limits=limits
        )
        seconds += report.wall_seconds
        verdict = judge_report(
            report,
            fail_to_pass=baseline.fail_to_pass,
            pass_to_pass=look.pass_to_pass,
            runner_changes=baseline.runner_changes,
        )
        if is_settled(look, verdict, report, baseline):
            break
    return replace(verdict, wall_seconds=seconds), changed_tests(before, report)


async def test_candidate(tools: Toolbox, progress: Progress, entry: CandidateRecord) -> None:
    """Give one candidate its verdict."""
    candidate_id = entry.candidate.candidate_id
    files = apply_change(progress.drafted[candidate_id].change, tools.snapshot.read_bytes)
    entry.verdict, entry.tests_changed = await verdict_on(tools, progress, candidate_id, files)
    verdict = entry.verdict
    tools.say(
        Action.CANDIDATE_JUDGED,
        f"{candidate_id} {verdict.kind.value}: {verdict.num_fixed} of {verdict.num_target} fixed",
        candidate_id=candidate_id,
        verdict=verdict.kind.value,
        num_fixed=verdict.num_fixed,
        num_target=verdict.num_target,
    )


def _candidate_limits(tools: Toolbox, baseline: BaselineRecord) -> SandboxLimits:
    """Return the limits of one run: a candidate that takes far longer than the base did will not end.

    CPU seconds tell sooner, for they do not grow where the machine has much else to do.
    """
    limits = tools.task.limits.sandbox
    shorter = {"wall_seconds": min(limits.wall_seconds, 5 * baseline.wall_seconds + 10)}
    if baseline.cpu_seconds is not None:
        shorter["cpu_seconds"] = min(limits.cpu_seconds, 5 * baseline.cpu_seconds + 3)
    return limits.model_copy(update=shorter)


async def _all_of(workers: list[asyncio.Task[None]]) -> None:
    """Wait for all workers, some of which may be cancelled; the first that fails ends the others."""
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        for worker in done:
            if not worker.cancelled():
                worker.result()
    finally:  # one that failed must not leave the others running
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _is_resolved(entry: CandidateRecord) -> bool:
    return entry.verdict is not None and entry.verdict.kind is VerdictKind.RESOLVED


def _forget_later(entries: list[CandidateRecord]) -> None:
    """Drop the verdicts on candidates behind the first that resolves: who had one is a matter of speed."""
    first = next((number for number, entry in enumerate(entries) if _is_resolved(entry)), len(entries))
    for entry in entries[first + 1 :]:
        entry.verdict, entry.tests_changed = None, {}


def _require_evidence(progress: Progress) -> None:
    kinds = {r.verdict.kind for r in progress.round.candidates if r.verdict}
    if kinds == {VerdictKind.INFRA_ERROR}:
        raise SandboxError(
            "the sandbox failed for every candidate", hint="run `loopwright doctor`, then resume this run"
        )


def _attempt(progress: Progress, entry: CandidateRecord) -> Attempt | None:
    verdict = entry.verdict
    if verdict is None or not verdict.feedback or entry.prompt_number is None:
        return None
    partial, mendable = verdict.kind is VerdictKind.PARTIAL, verdict.failure_class in _MENDABLE
    return Attempt(
        rank=0 if partial else 1 if mendable else 2,
        code=progress.drafted[entry.candidate.candidate_id].code,
        error=verdict.feedback,
    )
