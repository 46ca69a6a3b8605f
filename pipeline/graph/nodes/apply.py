"""apply: each completion becomes an edit of its suspect, or is refused with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from pipeline.change import change_between
from pipeline.context.failures import definition_of_test
from pipeline.core import Candidate
from pipeline.draft.apply import Refused, apply_answer
from pipeline.draft.edited import TestTraits, traits_of
from pipeline.draft.lines import replaced_line
from pipeline.draft.source import read_source
from pipeline.draft.syntax import program_fingerprint
from pipeline.graph.state import Attempt, Drafted, Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.patch import diff_of
from pipeline.runs import CandidateRecord
from pipeline.telemetry import Action
from pipeline.testrun import is_trusted

_MAX_READ_TESTS = 50  # failing tests whose literals no candidate may answer to
_MAX_MISSED_CHARS = 4000  # of an answer that quotes what is not there, shown to the next draft


async def apply(tools: Toolbox, progress: Progress) -> None:
    """Turn every completion into an edit of its suspect, or give the reason why it is refused."""
    assert progress.record.baseline is not None
    known = {c.fingerprint: c.candidate_id for c in progress.earlier_candidates() if c.fingerprint}
    tests = _traits_of_tests(tools, progress.record.baseline.fail_to_pass)
    for entry in progress.round.candidates:
        # In no thread: `ast.parse` of CPython 3.11 fails now and then when two threads parse.
        entry.candidate = _applied(tools, progress, entry, known, tests)
        if entry.candidate.refused:
            tools.say(
                Action.CANDIDATE_REFUSED,
                f"{entry.candidate.candidate_id} refused: {entry.candidate.refused}",
                candidate_id=entry.candidate.candidate_id,
                reason=entry.candidate.refused,
            )
        else:
            known[entry.candidate.fingerprint] = entry.candidate.candidate_id


def _applied(
    tools: Toolbox, progress: Progress, entry: CandidateRecord, known: dict[str, str], tests: TestTraits
) -> Candidate:
    assert entry.prompt_number is not None
    bundle = progress.bundles[entry.prompt_number]
    if is_trusted(bundle.suspect.path):
        return replace(entry.candidate, refused=f"{bundle.suspect.path} belongs to the tests")
    tree, base = tools.tree(progress), tools.snapshot.read_bytes
    record = progress.round.prompts[entry.prompt_number]
    prompt, answer = record.prompt, entry.completion.text
    truncated = entry.completion.finish_reason in ("length", "repetition")
    if record.span:
        answer = replaced_line(bundle.definition, record.span, answer, truncated=truncated)
        prompt, truncated = replace(prompt, prefill=""), False
    result = apply_answer(tree, bundle, prompt, answer, truncated=truncated, tests=tests)
    if isinstance(result, Refused):
        if result.is_miss:
            code = answer.strip()[:_MAX_MISSED_CHARS]
            progress.offer_attempt(bundle.suspect, Attempt(rank=1, code=code, error=result.reason))
        return replace(entry.candidate, refused=result.reason)
    trusted = next((path for path in result.files if is_trusted(path)), "")
    if trusted:
        return replace(entry.candidate, refused=f"{trusted} belongs to the tests")
    files = {**tree.changed, **result.files}
    change = change_between({path: base(path) for path in files}, files)
    fingerprint = program_fingerprint(files, base)
    if not change:
        return replace(entry.candidate, refused="it takes back what it goes on from")
    if fingerprint in known:
        same = f"the same program as {known[fingerprint]}"
        return replace(entry.candidate, refused=same, fingerprint=fingerprint)
    progress.drafted[entry.candidate.candidate_id] = Drafted(change=change, code=result.code)
    diff = diff_of(change, base)
    parents = (progress.footing.candidate_id,) if progress.footing else ()
    return replace(
        entry.candidate, diff=diff, fingerprint=fingerprint, overfit_risk=result.risk, parents=parents
    )


def _traits_of_tests(tools: Toolbox, test_ids: Sequence[str]) -> TestTraits:
    """Return what a candidate must not copy from the failing tests."""
    functions = dict.fromkeys(test_id.partition("[")[0] for test_id in test_ids)
    found = [definition_of_test(test_id, tools.snapshot) for test_id in list(functions)[:_MAX_READ_TESTS]]
    sources = [
        read_source(tools.snapshot.read_bytes(test.path)).text(test.start_line, test.end_line)
        for test in found
        if test
    ]
    files = {test_id.partition("::")[0] for test_id in test_ids}
    return traits_of(sources, sorted(PurePosixPath(path).stem for path in files if path.endswith(".py")))
