"""localise: which definitions may hold the fault. pack: what each prompt of a round says of one of them."""

from __future__ import annotations

import asyncio

from pipeline.config import Rung
from pipeline.context.failures import Evidence
from pipeline.context.localise import localise as rank_suspects
from pipeline.context.packing import pack as pack_suspect
from pipeline.core import ContextBundle, GeneratorInfo, Prompt, Suspect
from pipeline.draft.prompt import Feedback, render_prompt
from pipeline.exceptions import LimitReachedError
from pipeline.graph.state import Progress, suspect_key
from pipeline.graph.toolbox import Toolbox
from pipeline.runs import PromptRecord, RoundRecord
from pipeline.telemetry import Action
from pipeline.testrun import coverage_options, is_trusted, read_coverage

_MIN_COMPLETION_TOKENS = 64  # less room than this is no room for an answer


async def localise(tools: Toolbox, progress: Progress) -> None:
    """Fill in the coverage of the failing tests and the suspects, best first."""
    progress.covered = await _coverage(tools, progress)
    found = await asyncio.to_thread(
        rank_suspects,
        tools.snapshot,
        _evidence(tools, progress),
        num_suspects=tools.settings.planner.num_suspects,
    )
    progress.record.suspects = [suspect for suspect in found if not is_trusted(suspect.path)]


async def pack(tools: Toolbox, progress: Progress) -> None:
    """Begin a round: choose its rung and suspects, and render one prompt for each."""
    info = await tools.info()
    progress.record.model = info.model
    number = len(progress.record.rounds) + 1
    rung = _held_to_depth(tools, tools.settings.planner.ladder[number - 1], info)
    progress.record.rounds.append(RoundRecord(number=number, rung=rung))
    progress.bundles, progress.edits = [], {}
    for suspect in progress.record.suspects:
        if len(progress.bundles) == rung.num_suspects:
            break
        try:
            bundle, prompt, num_tokens = await _prompt(tools, progress, suspect, info)
        except LimitReachedError as exc:
            tools.say(Action.WARNING, f"{suspect.qualname} is skipped: {exc}")
            continue
        progress.bundles.append(bundle)
        progress.round.prompts.append(PromptRecord(suspect=suspect, prompt=prompt, num_tokens=num_tokens))


async def _coverage(tools: Toolbox, progress: Progress) -> dict[str, list[int]]:
    """Return the lines that the failing tests run; nothing where that cannot be told, which is no failure."""
    assert progress.record.baseline is not None
    hanging = {
        case.test_id for case in progress.record.baseline.failures if case.message.startswith("Timeout")
    }
    wanted = [test_id for test_id in progress.record.baseline.fail_to_pass if test_id not in hanging]
    if tools.command.runner != "pytest" or not any("::" in test_id for test_id in wanted):
        return {}
    result, _ = await tools.run_tests(progress, "coverage", test_ids=wanted, options=coverage_options())
    return read_coverage(result, tools.paths)


async def _prompt(
    tools: Toolbox, progress: Progress, suspect: Suspect, info: GeneratorInfo
) -> tuple[ContextBundle, Prompt, int]:
    """Return what one prompt says, the prompt, and its number of tokens.

    Raises:
        LimitReachedError: the definition does not fit the prompt, or the prompt the model's window.
    """
    feedback = _feedback(progress, suspect)
    frame = ContextBundle(suspect=suspect, definition="", header="")
    [num_frame_tokens] = await tools.generator.count_tokens([_render(tools, frame, feedback)])
    window = info.max_model_tokens - _MIN_COMPLETION_TOKENS
    bundle = await pack_suspect(
        tools.snapshot,
        suspect,
        _evidence(tools, progress),
        width=progress.round.rung.context,
        max_tokens=min(tools.settings.planner.max_prompt_tokens, window) - num_frame_tokens,
        count_tokens=tools.count_texts,
    )
    prompt = _render(tools, bundle, feedback)
    [num_tokens] = await tools.generator.count_tokens([prompt])
    if num_tokens > window:
        raise LimitReachedError(f"its prompt has {num_tokens} tokens; the window has {info.max_model_tokens}")
    return bundle, prompt, num_tokens


def _render(tools: Toolbox, bundle: ContextBundle, feedback: Feedback | None) -> Prompt:
    return render_prompt(bundle, statement=tools.task.statement, kind=tools.task.kind, feedback=feedback)


def _feedback(progress: Progress, suspect: Suspect) -> Feedback | None:
    attempt = progress.attempts.get(suspect_key(suspect)) if progress.use_feedback else None
    return Feedback(attempt.code, attempt.error) if attempt else None


def _evidence(tools: Toolbox, progress: Progress) -> Evidence:
    assert progress.record.baseline is not None
    return Evidence(
        failures=tuple(progress.record.baseline.failures),
        covered={path: frozenset(lines) for path, lines in progress.covered.items()},
        statement=tools.task.statement,
    )


def _held_to_depth(tools: Toolbox, rung: Rung, info: GeneratorInfo) -> Rung:
    """Return the rung with no more depth than the task and the model allow."""
    for name, deepest in (
        ("limits.max_recurrence_depth", tools.task.limits.max_recurrence_depth),
        (f"the model {info.model}", info.max_recurrence_depth),
    ):
        if rung.recurrence_depth > deepest:
            tools.say(
                Action.WARNING, f"recurrence depth {rung.recurrence_depth} is held to {deepest} by {name}"
            )
            rung = rung.model_copy(update={"recurrence_depth": deepest})
    return rung
