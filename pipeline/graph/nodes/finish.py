"""The ends of a round and of a run: select, revise, escalate, give_up, report."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.change import Change, apply_change, change_between, num_changed_lines
from pipeline.core import VerdictKind
from pipeline.draft.syntax import compile_error, edit_size
from pipeline.exceptions import InputError
from pipeline.graph.nodes.test import verdict_on
from pipeline.graph.routing import num_candidates, resolved
from pipeline.graph.state import Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.minimise import minimise
from pipeline.patch import make_patch
from pipeline.telemetry import Action

_ADVISORY = "ADVISORY, by a test that was drafted from the issue and that nobody has confirmed: "
_MAX_MINIMISE_TRIALS = 8  # each costs a run of the tests


async def select(tools: Toolbox, progress: Progress) -> None:
    """Choose the smallest patch that resolves, and drop what of it the tests do not need."""
    ids = [entry.candidate.candidate_id for entry in resolved(progress)]
    winner = min(ids, key=lambda candidate_id: _size(tools, progress.drafted[candidate_id].change))
    change = await _minimised(tools, progress, _of_the_user(tools, progress.drafted[winner].change))
    patch = make_patch(winner, change, tools.exported.read_bytes)
    progress.record.patch = replace(patch, is_advisory=progress.record.is_advisory)
    progress.record.status = "solved"
    risk = progress.candidate_record(winner).candidate.overfit_risk
    note = f"; read it with care: {risk}" if risk else ""
    advice = _ADVISORY if progress.record.is_advisory else ""
    progress.record.reason = f"{advice}{winner} makes every target test pass and breaks none{note}"
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
    if progress.record.reproduction is not None and progress.record.reproduction.diff:
        tools.folder.write_text("reproduction.diff", progress.record.reproduction.diff)
    if tools.outcomes is not None:
        await asyncio.to_thread(_keep_outcomes, tools, progress)


def _keep_outcomes(tools: Toolbox, progress: Progress) -> None:
    assert tools.outcomes is not None
    try:
        tools.outcomes.add(progress.record)
    except InputError as exc:  # a run does not fail because nothing can be learned from it
        tools.say(Action.WARNING, f"the policy learns nothing from this run: {exc}")


def _size(tools: Toolbox, change: Change) -> tuple[int, int]:
    base = tools.snapshot.read_bytes
    files = apply_change(change, base)
    return num_changed_lines(change), sum(edit_size(base(path), files[path]) for path in files)


def _of_the_user(tools: Toolbox, change: Change) -> Change:
    """Return the change as one of the user's tree: with the stubs that the run laid over that."""
    as_exported, files = tools.laid_sources, apply_change(change, tools.snapshot.read_bytes)
    if not as_exported:
        return change
    new = {path: tools.snapshot.read_bytes(path) for path in as_exported} | files
    return change_between({path: tools.exported.read_bytes(path) for path in new}, new)


def _files_of(tools: Toolbox, change: Change) -> dict[str, bytes]:
    """Return the files that make of the run's tree the user's tree with the change."""
    return tools.laid_sources | apply_change(change, tools.exported.read_bytes)


async def _minimised(tools: Toolbox, progress: Progress, change: Change) -> Change:
    num_trials = 0

    def compiles(fewer: Change) -> bool:
        return not any(compile_error(data, path) for path, data in _files_of(tools, fewer).items())

    async def still_resolves(fewer: Change) -> bool:
        nonlocal num_trials
        num_trials += 1
        if tools.seconds_left(progress) <= 0:
            return False
        verdict, _ = await verdict_on(tools, progress, f"minimise{num_trials}", _files_of(tools, fewer))
        return verdict.kind is VerdictKind.RESOLVED

    return await minimise(change, still_resolves, is_sound=compiles, max_trials=_MAX_MINIMISE_TRIALS)


def _say_escalated(tools: Toolbox, progress: Progress) -> None:
    assert progress.next_rung is not None
    number = len(progress.record.rounds) + 1
    rung = tools.settings.planner.ladder[progress.next_rung.number]
    settings = rung.model_dump(mode="json")
    tools.say(
        Action.ESCALATED,
        f"round {number}: {rung.num_candidates} candidates over {rung.num_suspects} suspects, "
        f"depth {rung.recurrence_depth}, temperature {rung.temperature} ({progress.next_rung.reason})",
        round=number,
        **settings,
    )


def _reason(tools: Toolbox, progress: Progress) -> str:
    record = progress.record
    if record.baseline and not record.baseline.fail_to_pass and record.reproduction:
        return record.reproduction.reason
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
