"""Has the model read the tree for the fault: a descent, as `ask` does it, within a budget of its own.

What goes wrong with it costs the run nothing: the words' ranking stands, and the record says why.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pipeline.context.descent.judge import Scorer
from pipeline.context.descent.localise import localise_by_descent
from pipeline.context.descent.memo import MemoScorer, ScoreMemo
from pipeline.context.descent.pieces import Pieces
from pipeline.context.descent.scorer import YesNoScorer
from pipeline.context.failures import Evidence
from pipeline.context.lexical import Ranked
from pipeline.context.localise import localise
from pipeline.context.reading import Ending, Findings, Query
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import Purse
from pipeline.context.tree.cache import PartCache
from pipeline.context.tree.index import index
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit, units
from pipeline.core import Suspect
from pipeline.exceptions import GeneratorError, InputError, LimitReachedError
from pipeline.graph.state import Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.runs import ReadingRecord
from pipeline.telemetry import Action
from pipeline.text import clip, count

_MAX_FAILURES = 3  # that the query tells
_MAX_QUERY_CHARS = 2000  # 500 tokens or so: each call of the model reads them, too


async def read_for_fault(tools: Toolbox, progress: Progress, evidence: Evidence) -> ReadingRecord:
    """Return what the model's judgement adds to each function that it read, or why it has no say."""
    await tools.generator.info()  # the engine may still be starting, which is no reading
    trace, begun_at = Trace(), time.monotonic()
    purse = _purse(tools, progress)
    judgements, reason = dict[str, float](), ""
    priors = {f"{one.path}::{one.qualname}": one for one in localise(tools.snapshot, evidence)}
    try:
        findings = await _findings(tools, _query(tools, evidence), priors, purse, trace)
        reason = _why_not(findings, trace)
    except (LimitReachedError, GeneratorError, InputError) as exc:
        reason = str(exc)
        trace.add("error", reason)
    else:
        judgements = {} if reason else _judgements(findings, priors)
    spent = purse.spent()
    record = ReadingRecord(
        judgements=judgements,
        reason=reason,
        events=trace.events,
        num_calls=spent.num_calls,
        num_prompt_tokens=spent.num_prompt_tokens,
        num_completion_tokens=spent.num_completion_tokens,
        seconds=time.monotonic() - begun_at,
    )
    _tell(tools, record)
    return record


async def _findings(
    tools: Toolbox, query: Query, priors: Mapping[str, Suspect], purse: Purse, trace: Trace
) -> Findings:
    # In no thread: the parsers are shared, and another task of a batch may be parsing.
    tree = index(tools.snapshot, cache=PartCache(tools.parts_path) if tools.parts_path else None)
    found = [unit for unit in units(tree, tools.snapshot, with_tests=False) if _may_be_suspect(unit)]
    known = [(unit, priors[unit.place]) for unit in found if unit.place in priors]
    ranked = [Ranked(unit, prior.score, prior.evidence) for unit, prior in known]
    return await localise_by_descent(
        query,
        tree,
        found,
        sorted(ranked, key=lambda one: -one.score),
        scorer=_scorer(tools, tree, found, (await tools.generator.info()).recurrence_depth),
        purse=purse,
        trace=trace,
    )


def _purse(tools: Toolbox, progress: Progress) -> Purse:
    budget = tools.settings.reading
    seconds = min(budget.wall_seconds * tools.num_sharing, tools.seconds_left(progress))
    return Purse.open(tools.folder.path / "spending.sqlite", budget, time.time() + seconds)


def _scorer(tools: Toolbox, tree: RepoTree, found: Sequence[Unit], recurrence_depth: int) -> Scorer:
    scorer = YesNoScorer(tools.generator, Pieces(tree, found), recurrence_depth=recurrence_depth)
    if tools.scores_path is None:
        return scorer
    # The run itself pays, so that one that was killed and resumed accounts for what it had asked before.
    return MemoScorer(scorer, ScoreMemo(tools.scores_path), payer=str(tools.folder.path.absolute()))


def _query(tools: Toolbox, evidence: Evidence) -> Query:
    failures = sorted(evidence.failures, key=lambda case: case.test_id)[:_MAX_FAILURES]
    said = "\n".join(f"{case.test_id} fails: {case.message or case.details}" for case in failures)
    return Query(text=clip(f"{tools.task.statement}\n\n{said}".strip(), _MAX_QUERY_CHARS))


def _may_be_suspect(unit: Unit) -> bool:
    return unit.node.kind == "function" and unit.node.path.endswith(".py")


def _why_not(findings: Findings, trace: Trace) -> str:
    """Return why what was found is not used: half a descent has judged cards, not what they lead to."""
    if findings.ending is Ending.COMPLETE and findings.coverage > 0:
        return ""
    errors = [event.title for event in trace.events if event.kind == "error"]
    return errors[-1] if errors else "the model answered neither yes nor no"


def _judgements(findings: Findings, priors: Mapping[str, Suspect]) -> dict[str, float]:
    """Return what the model has added to the scores that the functions had before."""
    added = {}
    for span in findings.spans:
        place = f"{span.path}::{span.qualname}"
        added[place] = round(span.score - (priors[place].score if place in priors else 0.0), 4)
    return {place: value for place, value in added.items() if value}


def _tell(tools: Toolbox, record: ReadingRecord) -> None:
    num_tokens = record.num_prompt_tokens + record.num_completion_tokens
    cost = f"{count(record.num_calls, 'call')}, {count(num_tokens, 'token')}"
    if record.reason:
        message = f"the reading of the tree has no say in the suspects ({cost}): {record.reason}"
        tools.say(Action.WARNING, message)
    else:
        tools.say(Action.PROGRESS, f"the tree is read: {cost}", stage="localise")
