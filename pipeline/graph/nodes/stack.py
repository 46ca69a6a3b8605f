"""combine: partial candidates laid over each other. stack: the next drafts go on from the best of them."""

from __future__ import annotations

from dataclasses import replace

from pipeline.change import apply_change
from pipeline.core import Candidate, Completion, VerdictKind
from pipeline.draft.syntax import compile_error, program_fingerprint
from pipeline.graph.nodes.localise import covered_lines, suspects_in
from pipeline.graph.nodes.test import test_candidate
from pipeline.graph.partials import Combination, Partial, combinations, next_footing, ranked
from pipeline.graph.routing import resolved
from pipeline.graph.state import Drafted, Footing, Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.patch import diff_of
from pipeline.runs import CandidateRecord
from pipeline.telemetry import Action

_MAX_COMBINATIONS = 3  # of a round; each costs a run of the tests and no token
_NOT_DRAFTED = Completion(
    text="",
    num_prompt_tokens=0,
    num_completion_tokens=0,
    finish_reason="stop",
    recurrence_depth=1,
    seconds=0.0,
)


async def combine(tools: Toolbox, progress: Progress) -> None:
    """Test this round's partial candidates together with each other and with earlier ones."""
    _keep_partials(progress)
    if resolved(progress) or progress.limit:
        return
    for combination in combinations(progress.partials, max_num=_MAX_COMBINATIONS):
        entry = _entry(tools, progress, combination)
        if entry is None or tools.seconds_left(progress) <= 0:
            continue
        progress.round.candidates.append(entry)
        await test_candidate(tools, progress, entry)
        if resolved(progress):
            return
    _keep_partials(progress)


async def stack(tools: Toolbox, progress: Progress) -> None:
    """Let the next round start from the best partial candidate's tree.

    Every other round starts from the base, but for those that write what is missing.
    """
    last = progress.footing.candidate_id if progress.footing else ""
    if progress.footing and any(suspect.is_unwritten for suspect in progress.footing.suspects):
        last = ""  # what is left to write is written beside what is there by now
    best = next_footing(progress.partials, last=last)
    progress.footing = None
    if best is None:
        return
    assert progress.record.baseline is not None
    left = [test_id for test_id in progress.record.baseline.fail_to_pass if test_id not in best.fixed]
    files = apply_change(best.change, tools.snapshot.read_bytes)
    covered, seen = await covered_lines(tools, progress, left, files=files)
    unseen = set(left) - {case.test_id for case in seen}
    failures = seen + [case for case in progress.record.baseline.failures if case.test_id in unseen]
    progress.footing = Footing(
        candidate_id=best.candidate_id, change=best.change, failures=failures, covered=covered
    )
    progress.footing.suspects = await suspects_in(tools, progress)
    if _is_half_written(progress):
        progress.footing = None
        return
    tools.say(
        Action.PROGRESS,
        f"going on from {best.candidate_id}, which repairs {len(best.fixed)} tests and leaves {len(left)}",
        stage="stack",
    )


def _is_half_written(progress: Progress) -> bool:
    """Say whether all is written there and some of it is wrong: a fresh draft is better than a mended one."""
    assert progress.footing is not None
    suspects = progress.record.suspects
    return any(s.is_unwritten for s in suspects) and not any(
        s.is_unwritten for s in progress.footing.suspects
    )


def _keep_partials(progress: Progress) -> None:
    """Remember the round's partial candidates: later rounds combine them and go on from them."""
    known = {partial.candidate_id for partial in progress.partials}
    for entry in progress.round.candidates:
        name, verdict = entry.candidate.candidate_id, entry.verdict
        if verdict and verdict.kind is VerdictKind.PARTIAL and verdict.fixed and name not in known:
            change = progress.drafted[name].change
            progress.partials.append(
                Partial(candidate_id=name, change=change, fixed=frozenset(verdict.fixed))
            )
    progress.partials = ranked(progress.partials)


def _entry(tools: Toolbox, progress: Progress, combination: Combination) -> CandidateRecord | None:
    """Return the combination as a candidate of this round, or None where it is no new program."""
    base = tools.snapshot.read_bytes
    files = apply_change(combination.change, base)
    fingerprint = program_fingerprint(files, base)
    earlier = progress.earlier_candidates()
    if any(c.fingerprint == fingerprint for c in earlier) or any(map(compile_error, files.values(), files)):
        return None
    parents = [c for c in earlier if c.candidate_id in combination.parents]
    candidate = _child(progress, parents, combination, fingerprint)
    candidate = replace(candidate, diff=diff_of(combination.change, base))
    progress.drafted[candidate.candidate_id] = Drafted(change=combination.change, code="")
    return CandidateRecord(candidate=candidate, prompt_number=None, completion=_NOT_DRAFTED)


def _child(
    progress: Progress, parents: list[Candidate], combination: Combination, fingerprint: str
) -> Candidate:
    number = sum(entry.prompt_number is None for entry in progress.round.candidates)
    return replace(
        parents[0],
        candidate_id=f"r{progress.round.number}m{number:02d}",  # m: merged
        round=progress.round.number,
        num_tokens=0,
        fingerprint=fingerprint,
        parents=combination.parents,
        overfit_risk="; ".join(dict.fromkeys(c.overfit_risk for c in parents if c.overfit_risk)),
    )
