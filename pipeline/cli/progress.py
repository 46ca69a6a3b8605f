"""Draws a run's events on stderr: live bars on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from pipeline.telemetry import Action, Emit, Event
from pipeline.text import duration, printable, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_PLAIN_INTERVAL_SECONDS = 5.0
_TELLING_SECONDS = 0.5  # a stage that is over sooner is not worth a line
_LONG_STAGES = {"prepare", "draft", "test"}
# What the planner's stages do, in a user's words.
_TITLES = {
    "prepare": "preparing the target and running its tests",
    "reproduce": "looking for a test that shows the issue",
    "scaffold": "looking for definitions that are missing",
    "localise": "looking for the fault",
    "pack": "packing prompts",
    "draft": "drafting",
    "apply": "applying drafts",
    "test": "testing drafts",
    "combine": "laying partial repairs together",
    "judge": "judging",
    "stack": "choosing what to go on from",
    "revise": "revising",
    "escalate": "escalating",
    "select": "selecting the smallest patch",
    "give_up": "giving up",
    "report": "closing the record",
}


@contextmanager
def watched(console: Console | None = None) -> Iterator[Emit]:
    """Yield an Emit that draws on the console (stderr unless given) until the block ends."""
    from rich.console import Console

    console = console or Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainProgress(partial(_print_line, console.file))
        return
    with _live_bars(console) as progress:
        yield LiveProgress(progress)


class PlainProgress:
    """One line for each thing that happened; a long step says how far it is every few seconds."""

    def __init__(self, write: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._told_at: dict[str, float] = {}  # stage -> when it last said how far it is

    def __call__(self, event: Event) -> None:
        """Write the event's line, unless its stage has just written one."""
        stage = str(event.data.get("stage", ""))
        if event.action is Action.STAGE_STARTED:
            self._told_at[stage] = self._now()
            if stage not in _TITLES or stage in _LONG_STAGES:
                self._write(f"{_what(event)} ...")
        elif event.action is Action.PROGRESS:
            if self._now() - self._told_at.get(stage, float("-inf")) >= _PLAIN_INTERVAL_SECONDS:
                self._told_at[stage] = self._now()
                self._write(f"  {_what(event)}: {_how_far(event)}".removesuffix(": "))
        elif is_telling(event):
            self._write(line_of(event))


class LiveProgress:
    """A bar for each step that is under way; what is finished scrolls up above the bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Draw the event."""
        stage = str(event.data.get("stage", ""))
        if event.action in (Action.STAGE_STARTED, Action.PROGRESS):
            self._move(stage, event)
            return
        if event.action is Action.STAGE_FINISHED and stage in self._bars:
            self._progress.remove_task(self._bars.pop(stage))
        if is_telling(event):
            style = _STYLES.get(event.action, "")
            self._progress.console.print(
                line_of(event), markup=False, highlight=False, soft_wrap=True, style=style
            )

    def _move(self, stage: str, event: Event) -> None:
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(_what(event), total=None, how_far="")
        total = event.data.get("total") or None
        self._progress.update(
            self._bars[stage],
            description=_what(event),
            total=total,
            completed=event.data.get("done", 0) if total else None,
            how_far=_how_far(event),
        )


_STYLES = {
    Action.SOLVED: "bold green",
    Action.GAVE_UP: "bold yellow",
    Action.WARNING: "yellow",
    Action.CANDIDATE_REFUSED: "dim",
    Action.CANDIDATE_JUDGED: "dim",
}


def is_telling(event: Event) -> bool:
    """Whether the event deserves a line: the end of a stage that took no time does not."""
    seconds = event.data.get("seconds")
    return event.action is not Action.STAGE_FINISHED or seconds is None or seconds >= _TELLING_SECONDS


def line_of(event: Event) -> str:
    """Return the line that stays on the screen for an event."""
    message = printable(event.message)
    if event.action is Action.STAGE_FINISHED:
        message = _TITLES.get(str(event.data.get("stage")), message)
        seconds = event.data.get("seconds")
        return message if seconds is None else f"{message}: {duration(seconds)}"
    if event.action is Action.WARNING:
        return f"warning: {message}"
    if event.action in (Action.CANDIDATE_REFUSED, Action.CANDIDATE_JUDGED):
        return f"  {message}"
    return message


def _what(event: Event) -> str:
    stage = str(event.data.get("stage", ""))
    if event.action is Action.STAGE_STARTED and stage in _TITLES:
        return _TITLES[stage]
    return printable(event.message, 100) or stage


def _how_far(event: Event) -> str:
    """Return "3 of 8 tests", "12.5 MB of 491.4 MB", "731 tokens"; "" where the event does not say."""
    done, total, unit = (event.data.get(key) for key in ("done", "total", "unit"))
    if done is None:
        return ""
    if unit == "bytes":
        return f"{size(done)} of {size(total)}" if total else size(done)
    numbers = f"{done:g} of {total:g}" if total else f"{done:g}"
    return f"{numbers} {unit or ''}".strip()


def _print_line(stream: IO[str], line: str) -> None:
    with suppress(OSError):  # a run outlives the reader of its progress
        print(line, file=stream, flush=True)


@contextmanager
def _live_bars(console: Console) -> Iterator[Progress]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[how_far]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress
