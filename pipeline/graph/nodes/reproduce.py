"""reproduce: where no failing test belongs to the issue, one is drafted from its text, marked advisory."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace

from pipeline.context.failures import Evidence, definition_of_test, frames, is_test_path
from pipeline.context.localise import localise as rank_suspects
from pipeline.context.symbols import definitions, source_lines
from pipeline.core import Completion, Prompt, Sampling, TestCase, TestReport
from pipeline.draft.imports import with_missing_imports
from pipeline.graph.nodes.prepare import clipped, may_reproduce
from pipeline.graph.state import Progress
from pipeline.graph.toolbox import Toolbox, require_sandbox
from pipeline.patch import new_file_diff
from pipeline.reproduce.answer import NoTestError, TestDraft, read_test
from pipeline.reproduce.choice import Kept, choose
from pipeline.reproduce.example import Example, find_example, new_test_path
from pipeline.reproduce.judge import Judgement, judge_reproduction
from pipeline.reproduce.prompt import STOP, Subject, render_reproduction
from pipeline.reproduce.relevance import speaks_of
from pipeline.runs import ReproductionDraft, ReproductionRecord
from pipeline.telemetry import Action
from pipeline.testrun import is_trusted

_NUM_SAMPLES = 15  # beside the greedy one
_TEMPERATURE = 0.8
_SEED_OFFSET = 500  # so that no round samples alike
_MAX_TOKENS = 256
_NUM_SUBJECTS = 3
_ADVISORY = "nobody has confirmed that it says what the issue means: the result is advisory"


async def reproduce(tools: Toolbox, progress: Progress) -> None:
    """Make a test from the issue the target, where no failing test belongs to it and a draft shows it."""
    baseline = progress.record.baseline
    assert baseline is not None
    if not may_reproduce(tools):
        return
    project = _Project.read(tools)  # in no thread: see `localise`
    if baseline.fail_to_pass and speaks_of(
        _texts(tools, baseline.failures), tools.task.statement, project.names
    ):
        return
    why = "no failing test belongs to the issue" if baseline.fail_to_pass else "every test passes"
    tools.say(Action.WARNING, f"{why}: a test is drafted from the issue's text, and {_ADVISORY}")
    record = progress.record.reproduction = ReproductionRecord()
    if project.example is None:
        record.reason = "the tree has no test file that a new test could be written beside"
    else:
        await _search(tools, progress, project, project.example)
    if not record.test_id and baseline.fail_to_pass:
        tools.say(Action.WARNING, f"{record.reason}; the tests that fail are repaired")


@dataclass(frozen=True)
class _Project:
    """What the drafts need to know of the tree."""

    names: frozenset[str]  # that it defines
    subjects: list[Subject]  # what the issue may be about
    example: Example | None

    @classmethod
    def read(cls, tools: Toolbox) -> _Project:
        snapshot, statement = tools.snapshot, tools.task.statement
        found = rank_suspects(
            snapshot, Evidence(failures=(), statement=statement), num_suspects=_NUM_SUBJECTS
        )
        subjects = []
        for suspect in found:
            lines = source_lines(snapshot.read_bytes(suspect.path))[suspect.start_line - 1 : suspect.end_line]
            subjects.append(Subject(suspect.path, suspect.qualname, "\n".join(lines)))
        tests, names = dict[str, str](), set[str]()
        for path in snapshot.python_paths:
            try:
                data = snapshot.read_bytes(path)
            except FileNotFoundError:
                continue  # a link out of the tree
            if is_trusted(path):
                tests[path] = data.decode("utf-8", "replace")
            elif not is_test_path(path):
                names |= {definition.name for definition in definitions(path, data)}
        spoken = [part for subject in subjects for part in reversed(subject.qualname.split("."))]
        return cls(frozenset(names), subjects, find_example(tests, spoken, statement))


async def _search(tools: Toolbox, progress: Progress, project: _Project, example: Example) -> None:
    """Draft, judge and choose; fill in the record, and the target where a draft is kept."""
    record = progress.record.reproduction
    assert record is not None
    prompt, completions = await _drafted(tools, progress, project, example)
    path = new_test_path(example, tools.paths)
    record.prompt, kept, cases = prompt, list[Kept](), dict[str, tuple[TestCase, TestReport]]()
    read = [_read(prompt, completion, project) for completion in completions]
    unique = {draft.source: draft for draft in read if isinstance(draft, TestDraft)}
    judged = await _judged(tools, progress, path, list(unique.values()))
    for completion, draft in zip(completions, read, strict=True):
        if isinstance(draft, str):
            record.drafts.append(ReproductionDraft(completion=completion, dropped=draft))
            continue
        found = judged[draft.source]
        if found.judgement.is_kept and found.case and found.report:
            kept.append(Kept(draft, found.judgement.signature))
            cases[draft.source] = (found.case, found.report)
        record.drafts.append(
            ReproductionDraft(
                completion=completion,
                source=draft.source,
                dropped=found.judgement.reason,
                signature=found.judgement.signature,
            )
        )
    chosen = choose(kept, tools.task.statement)
    record.reason = _reason(record, num_kept=len(kept), limit=progress.limit)
    if chosen:
        _aim_at(tools, progress, path, chosen.draft, *cases[chosen.draft.source])


def _aim_at(
    tools: Toolbox, progress: Progress, path: str, draft: TestDraft, case: TestCase, report: TestReport
) -> None:
    """Make the test part of the tree and the target of the run."""
    record, baseline = progress.record.reproduction, progress.record.baseline
    assert record is not None
    assert baseline is not None
    assert is_trusted(path), "a test that a candidate could change"
    record.path, record.test_id, record.source = path, case.test_id, draft.source
    record.diff = new_file_diff(path, draft.source.encode())
    progress.laid = {**progress.laid, path: draft.source.encode()}
    tools.lay(progress.laid)
    progress.record.baseline = baseline.model_copy(
        update={
            "fail_to_pass": [case.test_id],
            "failures": clipped([case]),
            "output": baseline.output + report.output,
        }
    )
    tools.say(
        Action.BASELINE,
        f"{case.test_id} fails as the issue says; {record.reason}",
        num_failing=1,
        num_passing=len(baseline.pass_to_pass),
    )


async def _drafted(
    tools: Toolbox, progress: Progress, project: _Project, example: Example
) -> tuple[Prompt, list[Completion]]:
    """Return the prompt and what the model said to it: one greedy answer, and sampled ones."""
    info = await tools.generator.info()
    progress.record.model = info.model
    room = info.max_model_tokens - _MAX_TOKENS
    prompts = [
        render_reproduction(tools.task.statement, project.subjects[:n], example)
        for n in range(len(project.subjects), -1, -1)
    ]
    sizes = await tools.generator.count_tokens(prompts)
    prompt = next((p for p, size in zip(prompts, sizes, strict=True) if size <= room), None)
    limits = tools.task.limits
    num_tokens = limits.num_tokens - progress.record.num_completion_tokens
    num_drafts = min(limits.num_candidates, num_tokens // _MAX_TOKENS)
    if prompt is None or num_drafts < 1:
        progress.limit = "num_tokens" if prompt else ""
        return prompts[-1], []
    greedy = Sampling(
        recurrence_depth=info.recurrence_depth,
        seed=tools.settings.planner.seed,
        max_tokens=_MAX_TOKENS,
        stop=STOP,
    )
    sampled = replace(
        greedy,
        num_samples=min(_NUM_SAMPLES, num_drafts - 1),
        temperature=_TEMPERATURE,
        top_p=tools.settings.planner.top_p,
        min_p=tools.settings.planner.min_p,
        seed=tools.settings.planner.seed + _SEED_OFFSET,
    )
    completions = list[Completion]()
    try:
        async with asyncio.timeout(tools.seconds_left(progress)) as clock:
            for sampling in (greedy, sampled):
                if sampling.num_samples > 0:
                    completions += (await tools.generator.generate([prompt], sampling))[0]
    except TimeoutError:
        if not clock.expired():
            raise
        progress.limit = "wall_seconds"
    return prompt, completions


def _read(prompt: Prompt, completion: Completion, project: _Project) -> TestDraft | str:
    """Return the draft with the imports that it needs, or why it is none."""
    try:
        draft = read_test(completion.text, prefill=prompt.prefill, names=project.names)
        data = draft.source.encode()
        return replace(draft, source=with_missing_imports(data, b"", completion.text).decode())
    except NoTestError as exc:
        return str(exc)
    except UnicodeError:
        return "the answer is no text"


@dataclass(frozen=True)
class _Judged:
    judgement: Judgement
    case: TestCase | None = None
    report: TestReport | None = None


async def _judged(
    tools: Toolbox, progress: Progress, path: str, drafts: list[TestDraft]
) -> dict[str, _Judged]:
    """Return what the base says of each draft, by its source; each in a sandbox of its own."""
    gate = asyncio.Semaphore(tools.settings.sandbox.num_parallel)

    async def judge(number: int, draft: TestDraft) -> _Judged:
        async with gate:
            first = await _judge_once(tools, progress, path, draft, f"reproduce{number}")
            if not first.judgement.is_kept:
                return first
            again = await _judge_once(tools, progress, path, draft, f"reproduce{number}-again")
            same = again.judgement.signature == first.judgement.signature
            return first if same else _Judged(Judgement("it does not fail the same way each time"))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(judge(number, draft)) for number, draft in enumerate(drafts)]
    except ExceptionGroup as errors:  # one broken sandbox is told as such, not as a group
        raise errors.exceptions[0] from errors
    return {draft.source: task.result() for draft, task in zip(drafts, tasks, strict=True)}


async def _judge_once(tools: Toolbox, progress: Progress, path: str, draft: TestDraft, name: str) -> _Judged:
    if tools.seconds_left(progress) <= 0:
        progress.limit = "wall_seconds"
        return _Judged(Judgement("there was no time to run it"))
    assert progress.record.baseline is not None
    test_id, files = f"{path}::{draft.name}", {path: draft.source.encode()}
    limits = tools.task.limits.sandbox
    seconds = min(limits.wall_seconds, 5 * progress.record.baseline.wall_seconds + 10)
    _, report = await tools.run_tests(
        progress,
        name,
        files=files,
        test_ids=[test_id],
        limits=limits.model_copy(update={"wall_seconds": seconds}),
    )
    require_sandbox(report)
    case = next((case for case in report.cases if case.test_id == test_id), None)
    places = frames(case.details, tools.snapshot.with_files(files)) if case else ()
    judgement = judge_reproduction(
        report, test_id=test_id, frames=places, statement=tools.task.statement, calls=draft.calls
    )
    return _Judged(judgement, case, report)


def _reason(record: ReproductionRecord, *, num_kept: int, limit: str) -> str:
    if num_kept:
        return f"{num_kept} of {len(record.drafts)} drafted tests fail for the right reason"
    if not record.drafts:
        stopped = f"the limit {limit} was reached" if limit else "the issue does not fit the model's window"
        return f"no test could be drafted from the issue: {stopped}"
    counts = Counter(draft.dropped for draft in record.drafts).most_common()
    told = "; ".join(f"{number} x {reason}" for reason, number in counts[:4])
    return f"none of {len(record.drafts)} tests drafted from the issue shows it: {told}"


def _texts(tools: Toolbox, failures: list[TestCase]) -> list[str]:
    """Return each failing test as its source and its traceback."""
    texts = []
    for case in failures:
        test = definition_of_test(case.test_id, tools.snapshot)
        lines = source_lines(tools.snapshot.read_bytes(test.path)) if test else []
        source = "\n".join(lines[test.start_line - 1 : test.end_line]) if test else ""
        texts.append("\n".join([case.test_id, source, case.message, case.details]))
    return texts
