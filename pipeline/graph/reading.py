"""Has the model read the tree for the fault: a descent, as `ask` does it, within a budget of its own.

What goes wrong with it costs the run nothing: the words' ranking stands, and the record says why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pipeline.context.descent.judge import Scorer
from pipeline.context.descent.localise import localise_by_descent
from pipeline.context.descent.memo import MemoScorer, ScoreMemo
from pipeline.context.descent.pieces import Pieces
from pipeline.context.descent.scorer import YesNoScorer
from pipeline.context.lexical import LexicalIndex
from pipeline.context.reading import Ending, Findings, Query
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import Purse
from pipeline.context.tree.cache import PartCache
from pipeline.context.tree.index import index
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit, units
from pipeline.exceptions import GeneratorError, InputError, LimitReachedError
from pipeline.graph.state import Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.runs import ReadingRecord
from pipeline.telemetry import Action
from pipeline.text import clip, count

_MAX_FAILURES = 3  # that the query tells
_MAX_QUERY_CHARS = 2000  # 500 tokens or so: each call of the model reads them, too


async def read_for_fault(tools: Toolbox, progress: Progress) -> ReadingRecord:
    """Return what a reading of the tree found, or why it found nothing."""
    await tools.generator.info()  # the engine may still be starting, which is no reading
    trace, begun_at = Trace(), time.monotonic()
    purse = _purse(tools, progress)
    places, reason = dict[str, list[str]](), ""
    try:
        findings = await _findings(tools, progress, purse, trace)
        reason = _why_not(findings, trace)
    except (LimitReachedError, GeneratorError, InputError) as exc:
        reason = str(exc)
        trace.add("error", reason)
    else:
        places = {} if reason else _places(findings)
    spent = purse.spent()
    record = ReadingRecord(
        places=places,
        reason=reason,
        events=trace.events,
        num_calls=spent.num_calls,
        num_prompt_tokens=spent.num_prompt_tokens,
        num_completion_tokens=spent.num_completion_tokens,
        seconds=time.monotonic() - begun_at,
    )
    _tell(tools, record)
    return record


async def _findings(tools: Toolbox, progress: Progress, purse: Purse, trace: Trace) -> Findings:
    # In no thread: the parsers are shared, and another task of a batch may be parsing.
    tree = index(tools.snapshot, cache=PartCache(tools.parts_path) if tools.parts_path else None)
    found = [unit for unit in units(tree, tools.snapshot, with_tests=False) if _may_be_suspect(unit)]
    return await localise_by_descent(
        Query(text=_query(tools, progress)),
        tree,
        LexicalIndex(found),
        scorer=_scorer(tools, tree, found),
        purse=purse,
        trace=trace,
    )


def _purse(tools: Toolbox, progress: Progress) -> Purse:
    budget = tools.settings.reading
    seconds = min(budget.wall_seconds * tools.num_sharing, tools.seconds_left(progress))
    return Purse.open(tools.folder.path / "spending.sqlite", budget, time.time() + seconds)


def _scorer(tools: Toolbox, tree: RepoTree, found: Sequence[Unit]) -> Scorer:
    scorer = YesNoScorer(tools.generator, Pieces(tree, found))
    if tools.scores_path is None:
        return scorer
    # The run itself pays, so that one that was killed and resumed accounts for what it had asked before.
    return MemoScorer(scorer, ScoreMemo(tools.scores_path), payer=str(tools.folder.path.absolute()))


def _query(tools: Toolbox, progress: Progress) -> str:
    assert progress.record.baseline is not None
    failures = sorted(progress.record.baseline.failures, key=lambda case: case.test_id)[:_MAX_FAILURES]
    said = "\n".join(f"{case.test_id} fails: {case.message or case.details}" for case in failures)
    return clip(f"{tools.task.statement}\n\n{said}".strip(), _MAX_QUERY_CHARS)


def _may_be_suspect(unit: Unit) -> bool:
    return unit.node.kind == "function" and unit.node.path.endswith(".py")


def _why_not(findings: Findings, trace: Trace) -> str:
    """Return why what was found is not used: half a descent has judged cards, not what they lead to."""
    if findings.ending is Ending.COMPLETE and findings.coverage > 0:
        return ""
    errors = [event.title for event in trace.events if event.kind == "error"]
    return errors[-1] if errors else "the model answered neither yes nor no"


def _places(findings: Findings) -> dict[str, list[str]]:
    return {f"{span.path}::{span.qualname}": list(span.evidence) for span in findings.spans}


def _tell(tools: Toolbox, record: ReadingRecord) -> None:
    num_tokens = record.num_prompt_tokens + record.num_completion_tokens
    cost = f"{count(record.num_calls, 'call')}, {count(num_tokens, 'token')}"
    if record.reason:
        message = f"the reading of the tree has no say in the suspects ({cost}): {record.reason}"
        tools.say(Action.WARNING, message)
    else:
        tools.say(Action.PROGRESS, f"the tree is read: {cost}", stage="localise")
