"""Draws a batch on stderr: one bar with its counts on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from pipeline.batch.outcome import InstanceOutcome, Row
from pipeline.batch.runner import BatchStatus
from pipeline.telemetry import Action, Event
from pipeline.text import count, duration, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_PLAIN_INTERVAL_SECONDS = 30.0
_STYLES = {
    InstanceOutcome.SOLVED: "green",
    InstanceOutcome.UNSOLVED: "yellow",
    InstanceOutcome.INVALID: "magenta",
    InstanceOutcome.INFRA: "red",
}


class BatchProgress(Protocol):
    """Shows how a batch goes."""

    def emit(self, event: Event) -> None:
        """Show what is done before and beside the instances: model, engine, sandbox."""
        ...

    def finished(self, row: Row) -> None:
        """Show an instance that has its outcome."""
        ...

    def show(self, status: BatchStatus) -> None:
        """Show how far the batch is."""
        ...


@contextmanager
def watched(console: Console | None = None) -> Iterator[BatchProgress]:
    """Yield a progress that draws on the console (stderr unless given) until the block ends."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = console or Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        stream = console.file

        def write(line: str) -> None:
            with suppress(OSError):  # a batch outlives the reader of its progress
                print(line, file=stream, flush=True)

        yield PlainBatchProgress(write)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield LiveBatchProgress(bars)


class PlainBatchProgress:
    """A line for each outcome, and twice a minute one on how far the batch is."""

    def __init__(self, write: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._told_at = now()

    def emit(self, event: Event) -> None:
        """Write the beginning and end of a stage, and warnings."""
        if _is_telling(event) and event.action is not Action.PROGRESS:
            self._write(printable(event.message))

    def finished(self, row: Row) -> None:
        """Write what became of an instance."""
        self._write(outcome_line(row))

    def show(self, status: BatchStatus) -> None:
        """Write how far the batch is, where that was not said for long."""
        if self._now() - self._told_at >= _PLAIN_INTERVAL_SECONDS:
            self._told_at = self._now()
            self._write(status_line(status))


class LiveBatchProgress:
    """One bar for the batch; outcomes scroll up above it."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._bar = bars.add_task("starting", total=None, state="")

    def emit(self, event: Event) -> None:
        """Say in the bar what is being waited for."""
        if _is_telling(event):
            self._bars.update(self._bar, description=printable(event.message, 60))

    def finished(self, row: Row) -> None:
        """Let the outcome scroll up."""
        self._bars.console.print(
            outcome_line(row), markup=False, highlight=False, soft_wrap=True, style=_STYLES[row.outcome]
        )

    def show(self, status: BatchStatus) -> None:
        """Move the bar."""
        done = status.num_total - status.num_left
        self._bars.update(
            self._bar,
            description=f"{done} of {status.num_total}",
            total=status.num_total,
            completed=done,
            state=status_line(status).partition(": ")[2],
        )


def outcome_line(row: Row) -> str:
    """Return the line that stays on the screen for an instance."""
    cost = f"{duration(row.seconds)}, {count(row.num_tokens, 'token')}"
    reason = "" if row.outcome is InstanceOutcome.SOLVED else f": {printable(row.reason, 200)}"
    return f"{row.outcome.value:<8} {printable(row.instance_id)} ({cost}){reason}"


def status_line(status: BatchStatus) -> str:
    """Return counts, rates and what is left, on one line."""
    counts = [f"{status.counts.get(outcome, 0)} {outcome.value}" for outcome in InstanceOutcome]
    parts = [", ".join(counts), f"{status.num_running} running"]
    if status.num_tokens_now:
        rate = status.num_tokens_now / status.seconds
        parts.append(f"{count(status.num_tokens_now, 'token')}, {rate:.0f}/s")
    if status.tasks_per_hour is not None and status.seconds_left is not None:
        parts.append(f"{status.tasks_per_hour:.0f} tasks/h, {duration(status.seconds_left)} left")
    return f"{status.num_total - status.num_left} of {status.num_total}: {'; '.join(parts)}"


def _is_telling(event: Event) -> bool:
    # What each of many targets needs for its preparation would drown the rest; its report tells it.
    return event.data.get("stage") not in ("prepare", "draft") and bool(event.message)
