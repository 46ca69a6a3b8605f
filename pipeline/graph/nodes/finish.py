"""The ends of a round and of a run: select, revise, escalate, give_up, report."""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline.core import VerdictKind
from pipeline.draft.source import apply_edit
from pipeline.draft.syntax import compile_error, edit_size
from pipeline.graph.nodes.test import verdict_on
from pipeline.graph.routing import num_candidates, resolved
from pipeline.graph.state import Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.patch import count_changed_lines, make_patch, minimise
from pipeline.telemetry import Action

_MAX_MINIMISE_TRIALS = 8  # each costs a run of the tests


async def select(tools: Toolbox, progress: Progress) -> None:
    """Choose the smallest patch that resolves, and drop what of it the tests do not need."""
    sizes = {}
    contents = {}
    for number, entry in enumerate(resolved(progress)):
        candidate = entry.candidate
        base = tools.snapshot.read_bytes(candidate.suspect.path)
        new = apply_edit(base, progress.edits[candidate.candidate_id])
        contents[candidate.candidate_id] = (candidate.suspect.path, base, new)
        sizes[candidate.candidate_id] = (count_changed_lines(base, new), edit_size(base, new), number)
    winner = min(sizes, key=lambda candidate_id: sizes[candidate_id])
    path, base, new = contents[winner]
    smallest = await _minimised(tools, progress, path, base, new)
    progress.record.patch = make_patch(winner, path, base, smallest)
    progress.record.status = "solved"
    progress.record.reason = f"{winner} makes every target test pass and breaks none"
    tools.say(Action.SOLVED, f"solved by {winner}", candidate_id=winner)


async def revise(tools: Toolbox, progress: Progress) -> None:
    """Let the next round's prompts show the best failing attempt of each suspect."""
    progress.use_feedback = True
    _say_escalated(tools, progress)


async def escalate(tools: Toolbox, progress: Progress) -> None:
    """Climb to the next rung with fresh drafts."""
    progress.use_feedback = False
    _say_escalated(tools, progress)


async def give_up(tools: Toolbox, progress: Progress) -> None:
    """Say why no patch was found."""
    progress.record.status = "unsolved"
    progress.record.reason = _reason(tools, progress)
    tools.say(Action.GAVE_UP, progress.record.reason, reason=progress.record.reason)


async def report(tools: Toolbox, progress: Progress) -> None:
    """Close the record, and write the patch as a file of its own."""
    progress.record.finished_at = datetime.now(UTC)
    if progress.record.patch is not None:
        tools.folder.write_text("patch.diff", progress.record.patch.diff)


async def _minimised(tools: Toolbox, progress: Progress, path: str, base: bytes, new: bytes) -> bytes:
    num_trials = 0

    async def still_resolves(content: bytes) -> bool:
        nonlocal num_trials
        num_trials += 1
        if compile_error(content, path) or tools.seconds_left(progress) <= 0:
            return False
        verdict, _ = await verdict_on(tools, progress, f"minimise{num_trials}", path, content)
        return verdict.kind is VerdictKind.RESOLVED

    return await minimise(base, new, still_resolves, max_trials=_MAX_MINIMISE_TRIALS)


def _say_escalated(tools: Toolbox, progress: Progress) -> None:
    number = len(progress.record.rounds) + 1
    rung = tools.settings.planner.ladder[number - 1]
    settings = rung.model_dump(mode="json")
    tools.say(
        Action.ESCALATED,
        f"round {number}: {rung.num_candidates} candidates over {rung.num_suspects} suspects, "
        f"depth {rung.recurrence_depth}, temperature {rung.temperature}",
        round=number,
        **settings,
    )


def _reason(tools: Toolbox, progress: Progress) -> str:
    record = progress.record
    if not record.suspects:
        return "no function of the tree could be linked to the failing tests"
    tried = f"{num_candidates(record)} candidates in {len(record.rounds)} rounds, {_best(progress)}"
    if progress.limit:
        value = getattr(tools.task.limits, progress.limit)
        return f"the limit {progress.limit} = {value:g} was reached after {tried}"
    if num_candidates(record) == 0:
        return "no suspect fits the prompt (planner.max_prompt_tokens)"
    return f"the ladder is at its end after {tried}{_held(tools, progress)}"


def _best(progress: Progress) -> str:
    verdicts = [r.verdict for round_ in progress.record.rounds for r in round_.candidates if r.verdict]
    if not verdicts:
        return "none of which could be tested"
    best = max(verdicts, key=lambda verdict: verdict.num_fixed)
    return f"the best of which fixed {best.num_fixed} of {best.num_target} tests"


def _held(tools: Toolbox, progress: Progress) -> str:
    """Say where a limit kept the ladder from its depth."""
    asked = max(rung.recurrence_depth for rung in tools.settings.planner.ladder)
    deepest = tools.task.limits.max_recurrence_depth
    return f"; max_recurrence_depth = {deepest} held depth {asked}" if asked > deepest else ""
