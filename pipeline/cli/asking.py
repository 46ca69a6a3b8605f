"""What `ask` does: gathers the source, lets a tier read it, and keeps answer, account and page."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.exceptions import InputError
from pipeline.runs import write_atomically
from pipeline.telemetry import Action, Emit, Event

if TYPE_CHECKING:
    from pipeline.account import Event as ReadingEvent
    from pipeline.ask.reader import Book, Choice, Desk
    from pipeline.config import Settings
    from pipeline.context.reading import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """What was typed."""

    paths: tuple[str, ...]
    question: str
    tier: Choice
    with_model: bool
    recurrence_depth: int  # 0: the model's own
    num_workers: int = 0  # Ray workers that judge; 0: this process does


class Told(NamedTuple):
    """What came of it, and how."""

    answer: Answer
    events: Sequence[ReadingEvent]


def new_reading() -> Path:
    """Make the folder of a new reading.

    Raises:
        EnvironmentBrokenError: it cannot be made.
    """
    from pipeline.cli.home import readings_root
    from pipeline.cli.run_store import new_run_id
    from pipeline.workspace.problems import explained

    folder = readings_root() / new_run_id()
    try:
        folder.mkdir(parents=True)
    except OSError as exc:
        raise explained(exc, readings_root()) from exc
    return folder


async def answered(inquiry: Inquiry, settings: Settings, folder: Path, emit: Emit) -> Told:
    """Answer a question; what came of it is kept in the folder.

    Raises:
        InputError: a path or a setting that cannot be used.
        BudgetSpentError: the reading may take more calls than the settings allow.
        EnvironmentBrokenError: engine, sandbox or git failed.
    """
    from pipeline.ask.page import render_reading
    from pipeline.ask.reader import Desk, read
    from pipeline.cli.home import scores_path
    from pipeline.context.reading_trace import Trace

    def tell(event: ReadingEvent) -> None:
        data = {"stage": "read", "done": event.event_id + 1, "unit": "steps"}
        emit(Event(Action.PROGRESS, f"reading: {event.title}", data))

    trace = Trace(folder / "trace.jsonl", tell)
    desk = Desk(folder=folder, scores=scores_path(), settings=settings, trace=trace, emit=emit)
    async with AsyncExitStack() as stack:
        if inquiry.with_model:  # it starts while the source is gathered
            await _seat_model(desk, inquiry, stack)
        stack.callback(shutil.rmtree, folder / "tree", ignore_errors=True)
        book = await asyncio.to_thread(_book, inquiry, folder, emit)
        emit(Event(Action.STAGE_STARTED, "reading", {"stage": "read"}))
        answer = await read(inquiry.question, book, inquiry.tier, desk, depth=inquiry.recurrence_depth)
        emit(Event(Action.STAGE_FINISHED, f"read, tier {answer.tier}", {"stage": "read"}))
    page = render_reading(inquiry.question, answer, trace.events)
    write_atomically(folder / "report.html", page.encode())
    kept = {"question": inquiry.question, "paths": inquiry.paths, **asdict(answer)}
    write_atomically(folder / "answer.json", json.dumps(kept, indent=1).encode())
    return Told(answer, tuple(trace.events))


async def _seat_model(desk: Desk, inquiry: Inquiry, stack: AsyncExitStack) -> None:
    from pipeline.ask.routing import kept_probes
    from pipeline.cli.compose import composed_generator, sandbox_edges
    from pipeline.cli.home import memo_root, probes_path
    from pipeline.cli.spread import spread
    from pipeline.ledger import LedgerGenerator

    if inquiry.num_workers:
        spreading = spread(desk.settings, inquiry.num_workers, desk.scores, desk.trace, desk.emit)
        engine, desk.scorer_of = await stack.enter_async_context(spreading)
    else:
        engine = await stack.enter_async_context(composed_generator(desk.settings, desk.emit))
    desk.generator = LedgerGenerator(engine, memo_root())
    desk.probes = kept_probes(probes_path())
    if inquiry.tier in ("auto", "recursive"):
        desk.sandbox, _ = await sandbox_edges(desk.settings, desk.emit)
        stack.push_async_callback(desk.sandbox.close)


def _book(inquiry: Inquiry, folder: Path, emit: Emit) -> Book:
    from pipeline.ask.reader import opened
    from pipeline.ask.source import gather
    from pipeline.cli.home import clones_root, parts_path

    source = gather(inquiry.paths, folder / "tree", clone_cache=clones_root())
    book = opened(source, parts_path(), emit)
    if not book.units:
        raise InputError("there is no text in what was given", hint="binary and generated files are skipped")
    return book
