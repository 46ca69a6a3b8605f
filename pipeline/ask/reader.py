"""Reads one source for one question: by words, by a descent of its tree, or by code that the model writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.ask.probe import Capability
from pipeline.ask.routing import route
from pipeline.ask.source import Source
from pipeline.config import Settings
from pipeline.context.actions.localise import ActionSettings, localise_by_actions
from pipeline.context.descent.answer import AnswerSettings, answer_from, everything, fits
from pipeline.context.descent.fold import FoldSettings, fold
from pipeline.context.descent.judge import Scorer
from pipeline.context.descent.localise import localise_by_descent, localise_by_words
from pipeline.context.descent.memo import MemoScorer, ScoreMemo
from pipeline.context.descent.pieces import Pieces
from pipeline.context.descent.scorer import YesNoScorer
from pipeline.context.lexical import LexicalIndex
from pipeline.context.named import named_spans
from pipeline.context.reading import Answer, Ending, Findings, Query, Tier
from pipeline.context.reading_trace import Trace
from pipeline.context.rlm.answer import answer as answer_by_code
from pipeline.context.rlm.settings import RecursionSettings
from pipeline.context.spending import Purse
from pipeline.context.tree.cache import PartCache
from pipeline.context.tree.index import index
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit, units
from pipeline.protocols import Generator, Sandbox
from pipeline.telemetry import Action, Emit, Event

Choice = Literal["auto", "fold", "lexical", "descent", "actions", "recursive"]


@dataclass(frozen=True, slots=True)
class Book:
    """A source that is ready to be read."""

    source: Source
    tree: RepoTree
    units: Sequence[Unit]
    words: LexicalIndex


def opened(source: Source, cache: Path, emit: Emit) -> Book:
    """Return a source with its tree and the words of its units; what was parsed before is in `cache`."""
    emit(Event(Action.STAGE_STARTED, "reading the tree", {"stage": "index"}))
    tree = index(source.snapshot, cache=PartCache(cache), documents=source.documents)
    found = tuple(units(tree, source.snapshot))
    book = Book(source, tree, found, LexicalIndex(found))
    skipped = f", {len(tree.skipped)} files skipped" if tree.skipped else ""
    message = f"{len(tree.files):,} files, {len(found):,} functions and windows{skipped}"
    emit(Event(Action.STAGE_FINISHED, message, {"stage": "index"}))
    return book


ScorerOf = Callable[[Book, int], AbstractAsyncContextManager[Scorer]]


@dataclass(slots=True, kw_only=True)
class Desk:
    """What a reading is done with."""

    folder: Path
    scores: Path  # the file of finished judgements, shared by all readings
    settings: Settings
    trace: Trace
    emit: Emit
    generator: Generator | None = None  # None: no model is asked
    sandbox: Sandbox | None = None  # where code that the model writes runs
    probes: Mapping[tuple[str, int], Capability] = field(default_factory=dict)
    scorer_of: ScorerOf | None = None  # what judges where, of a book and at a depth; None: here


async def read(question: str, book: Book, tier: Choice, desk: Desk, *, depth: int = 0) -> Answer:
    """Return what a tier answers; without a generator the places alone. Depth 0 is the model's own.

    Raises:
        InputError: the question leaves no room in the model's window.
        BudgetSpentError: the descent may take more calls than the budget has.
        GeneratorError: the engine failed.
    """
    query, budget = Query(text=question), desk.settings.reading
    if desk.generator is None:
        desk.trace.add("decide", "tier lexical: no model is asked")
        return _places_alone(await asyncio.to_thread(localise_by_words, query, book.words))
    depth = depth or (await desk.generator.info()).recurrence_depth
    settings = AnswerSettings(recurrence_depth=depth, seed=desk.settings.planner.seed)
    chosen, why = await _chosen(query, book, tier, desk, settings)
    desk.trace.add("decide", f"tier {chosen}: {why}")
    if chosen == "recursive":
        return await _by_code(query, book, desk, settings)
    purse = Purse.open(desk.folder / "spending.sqlite", budget, time.time() + budget.wall_seconds)
    if chosen == "fold":
        return await fold(
            query,
            book.units,
            generator=desk.generator,
            purse=purse,
            trace=desk.trace,
            settings=FoldSettings(answer=settings),
        )
    return await answer_from(
        query,
        await _found(chosen, query, book, desk, purse, settings),
        book.units,
        generator=desk.generator,
        purse=purse,
        trace=desk.trace,
        settings=settings,
    )


async def _found(
    tier: Tier, query: Query, book: Book, desk: Desk, purse: Purse, settings: AnswerSettings
) -> Findings:
    assert desk.generator is not None
    depth = settings.recurrence_depth
    if tier == "direct":
        return everything(book.units)
    if tier == "descent":
        async with (desk.scorer_of or _local(desk))(book, depth) as scorer:
            return await localise_by_descent(
                query,
                book.tree,
                book.units,
                book.words.ranked(query.text),
                scorer=scorer,
                purse=purse,
                trace=desk.trace,
            )
    if tier == "actions":
        return await localise_by_actions(
            query,
            book.tree,
            book.words,
            generator=desk.generator,
            purse=purse,
            trace=desk.trace,
            settings=ActionSettings(recurrence_depth=depth, seed=settings.seed),
        )
    return await asyncio.to_thread(localise_by_words, query, book.words)


def _local(desk: Desk) -> ScorerOf:
    @asynccontextmanager
    async def scorer_of(book: Book, recurrence_depth: int) -> AsyncIterator[Scorer]:
        assert desk.generator is not None
        pieces = Pieces(book.tree, book.units)
        scorer = YesNoScorer(desk.generator, pieces, recurrence_depth=recurrence_depth)
        yield MemoScorer(scorer, ScoreMemo(desk.scores))

    return scorer_of


async def _by_code(query: Query, book: Book, desk: Desk, settings: AnswerSettings) -> Answer:
    assert desk.generator is not None
    assert desk.sandbox is not None
    snapshot, documents = book.source.snapshot, sorted(book.source.documents)
    is_one_text = documents == list(snapshot.paths) and len(documents) == 1
    answer = await answer_by_code(
        query,
        snapshot.read_bytes(documents[0]).decode("utf-8", "replace") if is_one_text else snapshot,
        desk.settings.reading,
        generator=desk.generator,
        sandbox=desk.sandbox,
        folder=desk.folder,
        trace=desk.trace,
        settings=RecursionSettings().at_depth(settings.recurrence_depth, seed=settings.seed),
    )
    return replace(answer, spans=named_spans(answer.text, book.tree))


async def _chosen(
    query: Query, book: Book, tier: Choice, desk: Desk, settings: AnswerSettings
) -> tuple[Tier, str]:
    generator = desk.generator
    assert generator is not None
    if tier != "auto":
        return tier, "as asked for"
    if await fits(query, book.units, generator, settings):
        return "direct", "all of it fits the model's window"
    model = (await generator.info()).model
    return route(desk.probes.get((model, settings.recurrence_depth)))


def _places_alone(findings: Findings) -> Answer:
    ending = findings.ending if findings.spans else Ending.NOTHING_READ
    return Answer(text="", tier=findings.tier, spend=findings.spend, ending=ending, spans=findings.spans)
