"""localise: which definitions may hold the fault. pack: what each prompt of a round says of one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from pipeline.config import Rung
from pipeline.context.failures import Evidence
from pipeline.context.localise import localise as rank_suspects
from pipeline.context.localise import named_suspects
from pipeline.context.packing import pack as pack_suspect
from pipeline.core import (
    ContextBundle,
    GeneratorInfo,
    Outcome,
    Prompt,
    Suspect,
    TestCase,
    TestReport,
    TestStatus,
)
from pipeline.draft.lines import Span, gap_spans, statement_spans, suspicion_of
from pipeline.draft.prompt import Feedback, render_prompt
from pipeline.exceptions import LimitReachedError
from pipeline.graph.reading import read_for_fault
from pipeline.graph.routing import next_rung
from pipeline.graph.state import Progress, suspect_key
from pipeline.graph.toolbox import Toolbox
from pipeline.policy.arms import ArmStats, stats_of
from pipeline.runs import PromptRecord, RoundRecord
from pipeline.telemetry import Action
from pipeline.testrun import COVERAGE_OPTIONS, WITHOUT_ADDOPTS, CoverageMap, is_trusted, ochiai, read_map

_PYTEST_FILES = frozenset({"pyproject.toml", "pytest.ini", "setup.cfg", "tox.ini"})
_COVERAGE_BYTES = 32 << 20  # the map names every line of the tree: some megabytes for a large one
_MAX_SUITE_SECONDS = 60.0  # a longer suite is not run again for what its passing tests say
_COVERAGE_SLOWDOWN = 3  # at most, mostly; the run must end within the sandbox's limit
_MAX_UNWRITTEN = 8  # suspects of a round that are to be written: each repairs other tests
_DRAFTS_PER_LINE = 8  # at least: a round of fewer drafts leaves out statements
_MIN_COMPLETION_TOKENS = 64  # less room than this is no room for an answer


async def localise(tools: Toolbox, progress: Progress) -> None:
    """Fill in the coverage of the tests and the suspects, best first."""
    assert progress.record.baseline is not None
    suspicion = await _suspicion(tools, progress)
    if suspicion is None:
        progress.covered, _ = await covered_lines(tools, progress, progress.record.baseline.fail_to_pass)
    else:
        progress.suspicion = suspicion
        progress.covered = {path: list(lines) for path, lines in suspicion.items()}
    if tools.settings.planner.localise_by == "descent" and not tools.task.functions:
        progress.record.reading = await read_for_fault(tools, progress, _evidence(tools, progress))
    progress.record.suspects = await suspects_in(tools, progress)
    _tell_unwritten(tools, progress.record.suspects)
    progress.arm_stats = await asyncio.to_thread(_arm_stats, tools, await tools.generator.info())
    progress.next_rung = next_rung(tools.task, tools.settings.planner, progress)


async def pack(tools: Toolbox, progress: Progress) -> None:
    """Begin a round: choose its rung and suspects, and render the prompts: one each, or one for each line."""
    choice = progress.next_rung
    assert choice is not None, "routing goes on to pack only where a rung is left"
    chosen = tools.settings.planner.ladder[choice.number]
    progress.record.model = (await tools.generator.info()).model
    info = await tools.drafter(chosen).info()
    rung = _held_to_depth(tools, chosen, info)
    number = len(progress.record.rounds) + 1
    progress.record.rounds.append(
        RoundRecord(number=number, rung=rung, rung_number=choice.number, reason=choice.reason)
    )
    progress.round.footing = progress.footing.candidate_id if progress.footing else ""
    progress.bundles, progress.drafted = [], {}
    num_packed, (suspects, num_suspects) = 0, _suspects_of(progress, rung)
    for suspect in suspects:
        if num_packed == num_suspects:
            break
        try:
            bundle = await _bundle(tools, progress, suspect, info)
            prompts = await _prompts(tools, progress, bundle, info)
        except LimitReachedError as exc:
            tools.say(Action.WARNING, f"{suspect.qualname} is skipped: {exc}")
            continue
        num_packed += 1
        progress.bundles += [bundle] * len(prompts)
        progress.round.prompts += prompts
    _leave_out_lines(progress)


def _tell_unwritten(tools: Toolbox, suspects: Sequence[Suspect]) -> None:
    names = [f"{suspect.path}::{suspect.qualname}" for suspect in suspects if suspect.is_unwritten]
    if names and tools.task.kind == "fix":
        tools.say(Action.WARNING, f"not wrong but not written yet, and to be written: {', '.join(names)}")


def _suspects_of(progress: Progress, rung: Rung) -> tuple[list[Suspect], int]:
    """Return the suspects of a round, best first, and how many of them get prompts.

    What is not written yet has no lines to ask for, and comes before what may be wrong.
    """
    unwritten = [suspect for suspect in progress.suspects if suspect.is_unwritten][:_MAX_UNWRITTEN]
    if unwritten and rung.strategy in ("line", "insert"):
        return unwritten, len(unwritten)
    return progress.suspects, max(rung.num_suspects, len(unwritten))


def _arm_stats(tools: Toolbox, info: GeneratorInfo) -> list[ArmStats]:
    planner = tools.settings.planner
    if planner.policy == "ladder" or tools.known_outcomes is None:
        return []
    ladder = [rung.at_own_depth(info.recurrence_depth) for rung in planner.ladder]
    return stats_of(ladder, tools.known_outcomes.load(info.model))


async def suspects_in(tools: Toolbox, progress: Progress) -> list[Suspect]:
    """Return the definitions that may hold the fault in the tree that drafts start from, best first.

    Raises:
        InputError: the task names a function that is not there.
    """
    if tools.task.functions:
        return list(named_suspects(tools.tree(progress), tools.task.functions))
    # In no thread: `ast.parse` of CPython 3.11 fails now and then when two threads parse (SystemError).
    found = rank_suspects(
        tools.tree(progress),
        _evidence(tools, progress),
        num_suspects=tools.settings.planner.num_suspects,
        judgements=progress.record.reading.judgements if progress.record.reading else None,
    )
    return [suspect for suspect in found if not is_trusted(suspect.path)]


async def _suspicion(tools: Toolbox, progress: Progress) -> dict[str, dict[int, float]] | None:
    """Return how suspicious failing and passing tests together make each line that failing ones run.

    The whole command runs once more, under coverage. Nothing where that cannot be told; None where no test
    passes or the suite takes long, so that the failing tests should run alone.
    """
    baseline = progress.record.baseline
    assert baseline is not None
    failing = _that_end(tools, progress, baseline.fail_to_pass)
    longest = min(_MAX_SUITE_SECONDS, tools.task.limits.sandbox.wall_seconds / _COVERAGE_SLOWDOWN)
    if not failing or not baseline.pass_to_pass or baseline.wall_seconds > longest:
        return None
    options = [f"--deselect={test_id}" for test_id in sorted(_hanging(progress))]
    coverage, report = await _run_covered(tools, progress, options=options)
    if report.outcome is not Outcome.EXITED:
        return None
    return ochiai(coverage, failing, baseline.pass_to_pass) if coverage else {}


async def covered_lines(
    tools: Toolbox,
    progress: Progress,
    test_ids: Sequence[str],
    *,
    files: Mapping[str, bytes] | None = None,
) -> tuple[dict[str, list[int]], list[TestCase]]:
    """Return the lines that these failing tests run, on the base or with these files, and their failures.

    Nothing where that cannot be told, which is no failure.
    """
    wanted = _that_end(tools, progress, test_ids)
    if not wanted:
        return {}, []
    coverage, report = await _run_covered(tools, progress, files=files, test_ids=wanted)
    covered = ochiai(coverage, wanted) if coverage else {}
    bad = [case for case in report.cases if case.status in (TestStatus.FAILED, TestStatus.ERROR)]
    return {path: list(lines) for path, lines in covered.items()}, [c for c in bad if c.test_id in wanted]


def _that_end(tools: Toolbox, progress: Progress, test_ids: Sequence[str]) -> list[str]:
    """Return the tests without those that hang; none where no test has a name of its own."""
    wanted = [test_id for test_id in test_ids if test_id not in _hanging(progress)]
    has_names = tools.command.runner == "pytest" and any("::" in test_id for test_id in wanted)
    return wanted if has_names else []


def _hanging(progress: Progress) -> set[str]:
    assert progress.record.baseline is not None
    failures = progress.record.baseline.failures
    return {case.test_id for case in failures if case.message.startswith("Timeout")}


async def _run_covered(
    tools: Toolbox,
    progress: Progress,
    *,
    files: Mapping[str, bytes] | None = None,
    test_ids: Sequence[str] | None = None,
    options: Sequence[str] = (),
) -> tuple[CoverageMap | None, TestReport]:
    """Return which tests run which lines, None where that cannot be told, and what became of them."""
    limits = tools.task.limits.sandbox
    limits = limits.model_copy(update={"file_bytes": max(limits.file_bytes, _COVERAGE_BYTES)})
    addopts = WITHOUT_ADDOPTS if _turns_coverage_off(tools) else ()
    result, report = await tools.run_tests(
        progress,
        "coverage",
        files=files,
        test_ids=test_ids,
        options=(*COVERAGE_OPTIONS, *addopts, *options),
        limits=limits,
        with_coverage=True,
    )
    return read_map(result, tools.paths | set(files or ())), report


def _turns_coverage_off(tools: Toolbox) -> bool:
    files = tools.paths & _PYTEST_FILES
    return any(b"--no-cov" in tools.snapshot.read_bytes(path) for path in files)


async def _bundle(tools: Toolbox, progress: Progress, suspect: Suspect, info: GeneratorInfo) -> ContextBundle:
    """Return what the prompts of a suspect say.

    Raises:
        LimitReachedError: the definition does not fit a prompt.
    """
    frame = ContextBundle(suspect=suspect, definition="", header="")
    rung = progress.round.rung
    [num_frame_tokens] = await tools.drafter(rung).count_tokens(
        [_render(tools, frame, rung, _feedback(progress, suspect))]
    )
    window = info.max_model_tokens - _MIN_COMPLETION_TOKENS
    return await pack_suspect(
        tools.tree(progress),
        suspect,
        _evidence(tools, progress),
        width="wide" if suspect.is_unwritten else rung.context,  # what stands beside it shows the style
        max_tokens=min(tools.settings.planner.max_prompt_tokens, window) - num_frame_tokens,
        count_tokens=partial(tools.count_texts, rung=rung),
    )


async def _prompts(
    tools: Toolbox, progress: Progress, bundle: ContextBundle, info: GeneratorInfo
) -> list[PromptRecord]:
    """Return the suspect's prompts: one for the definition, or one for each of its statements.

    Raises:
        LimitReachedError: one does not fit the model's window.
    """
    feedback = _feedback(progress, bundle.suspect)
    spans = _line_spans(progress, bundle) or [None]
    prompts = [_render(tools, bundle, progress.round.rung, feedback, span) for span in spans]
    sizes = await tools.drafter(progress.round.rung).count_tokens(prompts)
    if max(sizes) > info.max_model_tokens - _MIN_COMPLETION_TOKENS:
        raise LimitReachedError(f"its prompt has {max(sizes)} tokens; the window has {info.max_model_tokens}")
    return [
        PromptRecord(
            suspect=bundle.suspect,
            prompt=prompt,
            num_tokens=size,
            span=span,
            suspicion=suspicion_of(span, lines_run(progress, bundle.suspect)) if span else 0.0,
        )
        for prompt, size, span in zip(prompts, sizes, spans, strict=True)
    ]


def _line_spans(progress: Progress, bundle: ContextBundle) -> list[Span | None]:
    """Return the statements to ask for, at most the suspect's share of the round; none for a definition."""
    rung, suspect = progress.round.rung, bundle.suspect
    if rung.strategy not in ("line", "insert") or not suspect.qualname or suspect.is_unwritten:
        return []
    find = statement_spans if rung.strategy == "line" else gap_spans
    spans = find(bundle.definition, ran=lines_run(progress, suspect))
    return [*spans[: max(rung.num_candidates // rung.num_suspects, 1)]]


def _leave_out_lines(progress: Progress) -> None:
    """Keep the prompts for the most suspicious statements of all suspects together, most suspicious first.

    Where the tests say nothing of the statements, all are kept.
    """
    asked = list(zip(progress.bundles, progress.round.prompts, strict=True))
    if not any(prompt.suspicion for _, prompt in asked):
        return
    asked.sort(key=lambda pair: -pair[1].suspicion)
    kept = asked[: max(progress.round.rung.num_candidates // _DRAFTS_PER_LINE, 1)]
    progress.bundles = [bundle for bundle, _ in kept]
    progress.round.prompts = [prompt for _, prompt in kept]


def lines_run(progress: Progress, suspect: Suspect) -> dict[int, float]:
    """Return the lines of a suspect that failing tests ran, counted within it, and how suspicious each is."""
    footing, path = progress.footing, suspect.path
    covered = dict.fromkeys((footing or progress).covered.get(path, []), 0.0)
    if footing is None:
        covered |= progress.suspicion.get(path, {})
    first = suspect.start_line
    return {n - first + 1: value for n, value in covered.items() if first < n <= suspect.end_line}


def _render(
    tools: Toolbox,
    bundle: ContextBundle,
    rung: Rung,
    feedback: Feedback | None,
    span: Span | None = None,
) -> Prompt:
    return render_prompt(
        bundle,
        statement=tools.task.statement,
        kind=tools.task.kind,
        feedback=feedback,
        span=span,
        style=rung.strategy if rung.strategy in ("blocks", "diff") else "whole",
    )


def _feedback(progress: Progress, suspect: Suspect) -> Feedback | None:
    attempt = progress.attempts.get(suspect_key(suspect)) if progress.use_feedback else None
    return Feedback(attempt.code, attempt.error) if attempt else None


def _evidence(tools: Toolbox, progress: Progress) -> Evidence:
    assert progress.record.baseline is not None
    footing = progress.footing
    covered = footing.covered if footing else progress.covered
    return Evidence(
        failures=tuple(footing.failures if footing else progress.record.baseline.failures),
        covered={path: frozenset(lines) for path, lines in covered.items()},
        suspicion={} if footing else progress.suspicion,
        statement=tools.task.statement,
        implements=tools.task.kind == "implement",
    )


def _held_to_depth(tools: Toolbox, rung: Rung, info: GeneratorInfo) -> Rung:
    """Return the rung at a depth that it names or the model was trained for, and task and model allow."""
    rung = rung.at_own_depth(info.recurrence_depth)
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
