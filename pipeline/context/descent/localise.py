"""`localise` by words, and by the model where it is asked: ranked spans of a repository for a query."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.context.descent.beam import Descender, Options
from pipeline.context.descent.fuse import combined
from pipeline.context.descent.judge import Judge, Scorer
from pipeline.context.descent.spans import span_of
from pipeline.context.lexical import LexicalIndex, Ranked
from pipeline.context.reading import Findings, Query, Span, Spend
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import Purse
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit

_MAX_SPANS = 100


def localise_by_words(query: Query, index: LexicalIndex) -> Findings:
    """Return what the words and pointers of a query find; no model is asked."""
    begun_at = time.monotonic()
    spans = tuple(span_of(one.unit, one.score, one.evidence) for one in index.ranked(query.text)[:_MAX_SPANS])
    spend = Spend(seconds=time.monotonic() - begun_at)
    return Findings(spans=spans, tier="lexical", coverage=1.0, spend=spend)


async def localise_by_descent(
    query: Query,
    tree: RepoTree,
    units: Sequence[Unit],
    ranked: Sequence[Ranked],
    *,
    scorer: Scorer,
    purse: Purse,
    trace: Trace,
    options: Options | None = None,
) -> Findings:
    """Return what a descent of the tree finds: the units by their ranking and the model's judgement together.

    Raises:
        BudgetSpentError: it may take more calls than the purse has left.
    """
    begun_at = time.monotonic()
    descender = Descender(tree, units, options or Options())
    root = trace.add("question", query.text)
    num_calls = descender.num_pieces_at_most * scorer.calls_per_piece
    trace.add("plan", f"at most {num_calls} calls of the model", parent=root)
    purse.require(num_calls, hint="allow more calls, or narrow what is read")
    judge = Judge(query.text, scorer, purse, trace, root)
    scores = await descender.descend(ranked, judge)
    spans = _fused(units, ranked, scores)[:_MAX_SPANS]
    trace.add(
        "decide", f"{len(spans)} spans, first {spans[0].path}::{spans[0].qualname}" if spans else "nothing"
    )
    return Findings(
        spans=spans,
        tier="descent",
        coverage=judge.coverage,
        spend=replace(judge.spend, seconds=time.monotonic() - begun_at),
        ending=judge.ending,
    )


def _fused(units: Sequence[Unit], ranked: Sequence[Ranked], scores: Mapping[str, float]) -> tuple[Span, ...]:
    by_place = {unit.place: unit for unit in units}
    why = {one.unit.place: one.evidence for one in ranked}
    fused = combined({one.unit.place: one.score for one in ranked}, scores)
    order = sorted(fused, key=lambda place: -fused[place])
    said = {place: (f"the model says {score:+.2f}",) for place, score in scores.items()}
    return tuple(
        span_of(by_place[place], fused[place], (*why.get(place, ()), *said.get(place, ()))) for place in order
    )
