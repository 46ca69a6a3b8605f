"""draft: one batch of completions for each way of sampling. apply: each becomes an edit, or is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from pipeline.change import change_between
from pipeline.context.failures import definition_of_test
from pipeline.core import Candidate, Completion, ContextBundle, Prompt, Sampling
from pipeline.draft.apply import Refused, apply_answer
from pipeline.draft.edited import TestTraits, traits_of
from pipeline.draft.lines import quoted_line, replaced_line
from pipeline.draft.prompt import STOP
from pipeline.draft.source import read_source
from pipeline.draft.syntax import program_fingerprint
from pipeline.graph.routing import num_tokens
from pipeline.graph.state import Attempt, Drafted, Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.patch import diff_of
from pipeline.runs import CandidateRecord, PromptRecord
from pipeline.telemetry import Action
from pipeline.testrun import is_trusted

_SEEDS_PER_ROUND = 1000  # so that no two rounds sample alike
_SPARE_TOKENS = 128
_SPARE_LINE_TOKENS = 48
_EDIT_TOKENS = 512  # of an answer that edits several places: the suspect's size says little of it
_UNWRITTEN_TOKENS = 448  # of an answer whose original says nothing of its length
_MAX_READ_TESTS = 50  # failing tests whose literals no candidate may answer to
_MAX_MISSED_CHARS = 4000  # of an answer that quotes what is not there, shown to the next draft
_MAX_LINE_SAMPLES = 8  # a line has few likely forms: more samples of it are the same again
_MAX_UNWRITTEN_SAMPLES = 16  # of each function that is to be written


async def draft(tools: Toolbox, progress: Progress) -> None:
    """Add this round's candidates; stop with a named limit where none can be afforded."""
    max_tokens = await _max_completion_tokens(tools, progress)
    allowance = _allowance(tools, progress, max_tokens)
    prompts = [p.prompt for p in progress.round.prompts][:allowance]
    if not prompts:
        return
    tools.say(Action.PROGRESS, "drafting", stage="draft", done=0, total=allowance, unit="candidates")
    started = time.monotonic()
    try:
        async with asyncio.timeout(tools.seconds_left(progress)) as clock:
            await _draft_batches(tools, progress, prompts, allowance, max_tokens)
    except TimeoutError:
        if not clock.expired():
            raise
        progress.limit = "wall_seconds"
    progress.round.draft_seconds = time.monotonic() - started
    done = len(progress.round.candidates)
    tools.say(Action.PROGRESS, "drafted", stage="draft", done=done, total=done, unit="candidates")


async def apply(tools: Toolbox, progress: Progress) -> None:
    """Turn every completion into an edit of its suspect, or give the reason why it is refused."""
    assert progress.record.baseline is not None
    known = {c.fingerprint: c.candidate_id for c in progress.earlier_candidates() if c.fingerprint}
    tests = _traits_of_tests(tools, progress.record.baseline.fail_to_pass)
    for entry in progress.round.candidates:
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


async def _draft_batches(
    tools: Toolbox, progress: Progress, prompts: Sequence[Prompt], allowance: int, max_tokens: int
) -> None:
    rung, planner = progress.round.rung, tools.settings.planner
    greedy = Sampling(
        recurrence_depth=rung.recurrence_depth, seed=planner.seed, max_tokens=max_tokens, stop=STOP
    )
    if rung.greedy_first or rung.temperature == 0:
        fresh = [i for i, p in enumerate(prompts) if not _was_greedy(progress, p)]
        await _generate(tools, progress, prompts, fresh, greedy)
        allowance -= len(fresh)
    num_samples = allowance // len(prompts)
    if rung.strategy == "line":
        num_samples = min(num_samples, _MAX_UNWRITTEN_SAMPLES if _writes_new(progress) else _MAX_LINE_SAMPLES)
    if num_samples and rung.temperature > 0:
        sampled = replace(
            greedy,
            num_samples=num_samples,
            temperature=rung.temperature,
            top_p=planner.top_p,
            min_p=planner.min_p,
            seed=planner.seed + _SEEDS_PER_ROUND * progress.round.number,
        )
        await _generate(tools, progress, prompts, range(len(prompts)), sampled)


async def _generate(
    tools: Toolbox, progress: Progress, prompts: Sequence[Prompt], numbers: Sequence[int], sampling: Sampling
) -> None:
    """Draft these prompts as one batch, and add the candidates turn by turn over the prompts."""
    if not numbers:
        return
    answers = await tools.drafter(progress.round.rung).generate([prompts[i] for i in numbers], sampling)
    for sample in range(sampling.num_samples):
        for i, completions in zip(numbers, answers, strict=True):
            _add(progress, i, sample, completions[sample], sampling)


def _add(
    progress: Progress, prompt_number: int, sample: int, completion: Completion, sampling: Sampling
) -> None:
    round_ = progress.round
    candidate = Candidate(
        candidate_id=f"r{round_.number}c{len(round_.candidates):02d}",
        round=round_.number,
        suspect=round_.prompts[prompt_number].suspect,
        sampling_seed=sampling.seed + sample,
        temperature=sampling.temperature,
        recurrence_depth=completion.recurrence_depth,
        num_tokens=completion.num_completion_tokens,
    )
    entry = CandidateRecord(candidate=candidate, prompt_number=prompt_number, completion=completion)
    round_.candidates.append(entry)


def _was_greedy(progress: Progress, prompt: Prompt) -> bool:
    """Say whether an earlier round drafted the prompt greedily at this depth: it would say the same again."""
    depth = progress.round.rung.recurrence_depth
    return any(
        round_.prompts[entry.prompt_number].prompt == prompt
        for round_ in progress.record.rounds[:-1]
        for entry in round_.candidates
        if entry.prompt_number is not None
        and entry.candidate.temperature == 0
        and entry.candidate.recurrence_depth == depth
    )


async def _max_completion_tokens(tools: Toolbox, progress: Progress) -> int:
    """Return the room for one answer: twice the longest original, no more than the window leaves.

    What is not written yet has no original to go by.
    """
    if not progress.bundles:
        return 1
    originals = [_original(bundle, p) for bundle, p in _bundled_prompts(progress)]
    rung = progress.round.rung
    sizes = await tools.count_texts(list(dict.fromkeys(originals)), rung)
    info = await tools.drafter(rung).info()
    room = info.max_model_tokens - max(p.num_tokens for p in progress.round.prompts)
    writes_lines = all(p.span for p in progress.round.prompts)
    wanted = 2 * max(sizes) + (_SPARE_LINE_TOKENS if writes_lines else _SPARE_TOKENS)
    least = _UNWRITTEN_TOKENS if _writes_new(progress) else 0
    least = _EDIT_TOKENS if rung.strategy in ("blocks", "diff") else least
    return min(max(wanted, least), room)


def _writes_new(progress: Progress) -> bool:
    return any(prompt.suspect.is_unwritten for prompt in progress.round.prompts)


def _bundled_prompts(progress: Progress) -> Iterator[tuple[ContextBundle, PromptRecord]]:
    yield from zip(progress.bundles, progress.round.prompts, strict=True)


def _original(bundle: ContextBundle, prompt: PromptRecord) -> str:
    return quoted_line(bundle.definition, prompt.span) if prompt.span else bundle.definition


def _allowance(tools: Toolbox, progress: Progress, max_tokens: int) -> int:
    """Return how many candidates this round may have; names the limit where there can be none."""
    limits, record = tools.task.limits, progress.record
    allowed = {
        "num_candidates": limits.num_candidates - len(record.completions),
        "num_tokens": (limits.num_tokens - num_tokens(record)) // max_tokens,
    }
    name = min(allowed, key=lambda name: allowed[name])
    if allowed[name] <= 0:
        progress.limit = name
    return max(min(allowed[name], progress.round.rung.num_candidates), 0)


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
