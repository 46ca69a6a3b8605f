"""draft: the round's completions, in a batch for each way of decoding."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pipeline.core import Candidate, Completion, ContextBundle, Prompt, Sampling
from pipeline.draft.branches import NUM_ALTERNATIVES, Branch, Frontier, branches_of
from pipeline.draft.lines import is_gap, quoted_line, start_of
from pipeline.draft.prompt import STOP
from pipeline.draft.splices import Place, Spelling, programs, splices_of
from pipeline.graph.state import Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.runs import CandidateRecord, PromptRecord
from pipeline.telemetry import Action

_SEEDS_PER_ROUND = 1000  # so that no two rounds sample alike
_SPARE_TOKENS = 128
_SPARE_LINE_TOKENS = 48
_EDIT_TOKENS = 512  # of an answer that edits several places: the suspect's size says little of it
_UNWRITTEN_TOKENS = 448  # of an answer whose original says nothing of its length
_MAX_LINE_SAMPLES = 8  # a line has few likely forms: more samples of it are the same again
# How much the tests' suspicion of a statement counts beside the model's probabilities of what to write there.
_SUSPICION_WEIGHT = 2.0
_LEAST_SUSPICION = 0.02  # so that no statement is out of reach, and the logarithm of none infinite
_MAX_TURNS = 3  # times that an answer is turned back to the statement that it is to spell again
_LEAST_BRANCHES = 16  # fewer at a time would leave the engine half empty
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


async def _draft_batches(
    tools: Toolbox, progress: Progress, prompts: Sequence[Prompt], allowance: int, max_tokens: int
) -> None:
    """Draft each prompt greedily, unless that was done, then as the rung says.

    Where there is nothing to splice, as in a whole definition, it is branches; where the server does not tell
    what else was likely, it is samples.
    """
    rung, planner = progress.round.rung, tools.settings.planner
    leaves_greedy = rung.decoding != "sample" and rung.temperature > 0
    greedy = Sampling(
        recurrence_depth=rung.recurrence_depth,
        seed=planner.seed,
        max_tokens=max_tokens,
        stop=STOP,
        num_alternatives=NUM_ALTERNATIVES if leaves_greedy else 0,
    )
    fresh = [i for i, p in enumerate(prompts) if not _was_greedy(progress, p)]
    # What leaves the greedy answer begins at it, so it is asked for again where an earlier round had it.
    wanted = range(len(prompts)) if leaves_greedy else fresh
    answers = await _generate(tools, progress, prompts, wanted, greedy)
    for i in fresh:
        _add(progress, i, 0, answers[i][0], greedy)
    allowance -= len(fresh)
    if rung.decoding == "splice":
        allowance = await _draft_splices(tools, progress, prompts, answers, allowance, greedy)
    if allowance <= 0:
        return
    frontier = Frontier(_tried(progress, prompts))
    frontier.add(
        b for i, (answer,) in answers.items() for b in _branches(progress, _root(progress, i), answer)
    )
    if frontier:
        await _draft_branches(tools, progress, prompts, frontier, allowance, greedy)
    elif rung.temperature > 0:
        await _draft_samples(tools, progress, prompts, allowance, greedy)


async def _draft_splices(
    tools: Toolbox,
    progress: Progress,
    prompts: Sequence[Prompt],
    answers: Mapping[int, Sequence[Completion]],
    allowance: int,
    sampling: Sampling,
) -> int:
    """Draft what spells the statements again, add the likeliest splices, and return what is left to draft.

    The splices themselves cost no token.
    """

    num_before = len(progress.round.candidates)
    spellings = await _spellings(tools, progress, prompts, answers, allowance, sampling)
    allowance -= len(progress.round.candidates) - num_before
    found = (splice for i, one in spellings.items() for splice in splices_of(_root(progress, i), one))
    places = _places(tools, progress)
    splices = programs(found, allowance, places, _tried(progress, prompts)) if allowance > 0 else []
    for splice in splices:
        answer = answers[splice.prompt_number][0]
        free = replace(answer, text=splice.text, num_completion_tokens=0, finish_reason="stop", seconds=0.0)
        _add(progress, splice.prompt_number, 0, free, sampling, branch=splice.text)
    return allowance - len(splices)


def _places(tools: Toolbox, progress: Progress) -> dict[int, Place]:
    """Return what each prompt of a statement asks for, by its number; each file is read once."""
    tree = tools.tree(progress)
    files = {path: tree.read_bytes(path) for path in {p.suspect.path for p in progress.round.prompts}}
    return {
        i: Place(bundle.definition, prompt.span, files[prompt.suspect.path])
        for i, (bundle, prompt) in enumerate(_bundled_prompts(progress))
        if prompt.span
    }


async def _spellings(
    tools: Toolbox,
    progress: Progress,
    prompts: Sequence[Prompt],
    answers: Mapping[int, Sequence[Completion]],
    allowance: int,
    sampling: Sampling,
) -> dict[int, Spelling]:
    """Return the statements as the model spells them again, by prompt.

    Where an answer leaves the statement, one more is drafted that begins behind that place: a draft, too.
    """
    spellings: dict[int, Spelling] = {}
    for i, (bundle, prompt) in enumerate(_bundled_prompts(progress)):
        if i in answers and prompt.span and not is_gap(prompt.span):
            original = _original(bundle, prompt)
            spellings[i] = Spelling(original.removeprefix(start_of(original)))
            spellings[i].follow(answers[i][0].steps)
    for _ in range(_MAX_TURNS):
        turned = [i for i, one in spellings.items() if one.steps and not one.is_whole][: max(allowance, 0)]
        begun = [Branch(i, spellings[i].text) for i in turned]
        for branch, answer in zip(
            begun, await _answers(tools, progress, prompts, begun, sampling), strict=True
        ):
            _add(progress, branch.prompt_number, 0, answer, sampling, branch=branch.text)
            spellings[branch.prompt_number].follow(answer.steps)
        allowance -= len(turned)
    return spellings


async def _draft_branches(
    tools: Toolbox,
    progress: Progress,
    prompts: Sequence[Prompt],
    frontier: Frontier,
    allowance: int,
    sampling: Sampling,
) -> None:
    """Draft the likeliest branches, half of what is left at a time: those open others behind them."""
    while frontier and allowance > 0:
        branches = frontier.take(max(allowance // 2, min(allowance, _LEAST_BRANCHES)))
        answers = await _answers(tools, progress, prompts, branches, sampling)
        for branch, answer in zip(branches, answers, strict=True):
            _add(progress, branch.prompt_number, 0, answer, sampling, branch=branch.text)
            frontier.add(_branches(progress, branch, answer))
        allowance -= len(branches)


async def _answers(
    tools: Toolbox,
    progress: Progress,
    prompts: Sequence[Prompt],
    begun: Sequence[Branch],
    sampling: Sampling,
) -> list[Completion]:
    """Draft the answers that begin like this; return them whole, with the steps behind the beginning."""
    longer = [
        replace(prompts[b.prompt_number], prefill=prompts[b.prompt_number].prefill + b.text) for b in begun
    ]
    answers = await _generate(tools, progress, longer, range(len(longer)), sampling)
    return [replace(answers[i][0], text=branch.text + answers[i][0].text) for i, branch in enumerate(begun)]


def _root(progress: Progress, number: int) -> Branch:
    """Return where the answers of a prompt begin: the more suspicious what it asks for, the likelier."""
    suspicion = max(progress.round.prompts[number].suspicion, _LEAST_SUSPICION)
    return Branch(number, logprob=_SUSPICION_WEIGHT * math.log(suspicion))


def _branches(progress: Progress, begun: Branch, answer: Completion) -> Iterator[Branch]:
    bundle, prompt = progress.bundles[begun.prompt_number], progress.round.prompts[begun.prompt_number]
    return branches_of(begun, answer, _original(bundle, prompt))


def _tried(progress: Progress, prompts: Sequence[Prompt]) -> set[tuple[int, str]]:
    """Return the beginnings that earlier rounds drafted at this depth, by the prompt's number in this one."""
    numbers = {prompt: i for i, prompt in enumerate(prompts)}
    depth = progress.round.rung.recurrence_depth
    return {
        (numbers[prompt], entry.branch)
        for round_ in progress.record.rounds[:-1]
        for entry in round_.candidates
        if entry.branch and entry.prompt_number is not None and entry.candidate.recurrence_depth == depth
        if (prompt := round_.prompts[entry.prompt_number].prompt) in numbers
    }


async def _draft_samples(
    tools: Toolbox, progress: Progress, prompts: Sequence[Prompt], allowance: int, greedy: Sampling
) -> None:
    rung, planner = progress.round.rung, tools.settings.planner
    num_samples = allowance // len(prompts)
    if rung.strategy in ("line", "insert"):
        num_samples = min(num_samples, _MAX_UNWRITTEN_SAMPLES if _writes_new(progress) else _MAX_LINE_SAMPLES)
    if num_samples <= 0:
        return
    sampled = replace(
        greedy,
        num_samples=num_samples,
        num_alternatives=0,
        temperature=rung.temperature,
        top_p=planner.top_p,
        min_p=planner.min_p,
        seed=planner.seed + _SEEDS_PER_ROUND * progress.round.number,
    )
    answers = await _generate(tools, progress, prompts, range(len(prompts)), sampled)
    for sample in range(num_samples):  # turn by turn over the prompts
        for i, completions in answers.items():
            _add(progress, i, sample, completions[sample], sampled)


async def _generate(
    tools: Toolbox, progress: Progress, prompts: Sequence[Prompt], numbers: Sequence[int], sampling: Sampling
) -> dict[int, list[Completion]]:
    """Draft these prompts as one batch and return their completions by the prompt's number."""
    if not numbers:
        return {}
    drafter = tools.drafter(progress.round.rung)
    return dict(zip(numbers, await drafter.generate([prompts[i] for i in numbers], sampling), strict=True))


def _add(
    progress: Progress,
    prompt_number: int,
    sample: int,
    completion: Completion,
    sampling: Sampling,
    *,
    branch: str = "",
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
    round_.candidates.append(
        CandidateRecord(
            candidate=candidate,
            prompt_number=prompt_number,
            completion=replace(completion, steps=()),  # they have served
            branch=branch,
        )
    )


def _was_greedy(progress: Progress, prompt: Prompt) -> bool:
    """Say whether an earlier round drafted the prompt greedily at this depth: it would say the same again."""
    depth = progress.round.rung.recurrence_depth
    return any(
        round_.prompts[entry.prompt_number].prompt == prompt
        for round_ in progress.record.rounds[:-1]
        for entry in round_.candidates
        if entry.prompt_number is not None
        and entry.candidate.temperature == 0
        and not entry.branch
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
        "num_tokens": (limits.num_tokens - record.num_completion_tokens) // max_tokens,
    }
    name = min(allowed, key=lambda name: allowed[name])
    if allowed[name] <= 0:
        progress.limit = name
    return max(min(allowed[name], progress.round.rung.num_candidates), 0)
