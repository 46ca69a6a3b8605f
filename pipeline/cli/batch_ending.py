"""What a batch came to: its pages, the summary on stdout, and the exit code."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any

import typer

from pipeline.batch.folder import BatchFolder
from pipeline.batch.outcome import InstanceOutcome, Row
from pipeline.batch.page import render_batch
from pipeline.batch.summary import Summary, summarise
from pipeline.cli.errors import ExitCode, describe, exit_code_of
from pipeline.runs import write_atomically
from pipeline.text import count, duration

_REFRESH_SECONDS = 10.0
_REFRESH_SHARE = 20  # of the time goes to other things than the pages, however large they are


class Outputs:
    """The rows of a batch, and the files that are made from them."""

    def __init__(self, folder: BatchFolder, rows: dict[str, Row]) -> None:
        self.folder = folder
        self.rows = rows  # by instance
        self._next_at = 0.0

    def add(self, row: Row) -> None:
        """Keep a row; the pages follow now and again."""
        self.folder.append(row)
        self.rows[row.instance_id] = row
        if time.monotonic() >= self._next_at:
            self.write()

    def write(self) -> None:
        """Write the predictions and the summary page."""
        started = time.monotonic()
        rows = sorted(self.rows.values(), key=lambda row: row.line)
        self.folder.write_predictions(rows)
        write_atomically(self.folder.page_path, render_batch(self.folder, rows).encode())
        took = time.monotonic() - started
        self._next_at = time.monotonic() + max(_REFRESH_SECONDS, _REFRESH_SHARE * took)


def exit_code(rows: Collection[Row]) -> ExitCode:
    """Return the code of a batch all of whose instances have an outcome."""
    if rows and all(row.outcome is InstanceOutcome.INFRA for row in rows):
        return ExitCode.ENVIRONMENT
    return ExitCode.SOLVED


def tell(outputs: Outputs, *, num_left: int, error: BaseException | None, as_json: bool) -> None:
    """Put the summary on stdout, and on stderr what to do next; `error` is what stopped the batch."""
    summary = summarise(outputs.rows.values())
    if as_json:
        code = exit_code_of(error) if error else exit_code(outputs.rows.values())
        values = {"exit_code": int(code), **_object(outputs.folder, summary, num_left)}
        if error is not None:
            values["error"], values["hint"] = describe(error)
        typer.echo(json.dumps(values, indent=1))
    else:
        typer.echo("\n".join(_lines(outputs.folder, summary, num_left)))
    if num_left:
        print(f"{count(num_left, 'instance')} left: the same command goes on with them", file=sys.stderr)
    elif summary.num_infra:
        print("next: the same command with --redo infra tries those again", file=sys.stderr)


def _object(folder: BatchFolder, summary: Summary, num_left: int) -> dict[str, Any]:
    return {
        **asdict(summary),
        "num_left": num_left,
        "solved_rate": summary.solved_rate,
        "tokens_per_solved": summary.per_solved(summary.num_tokens),
        "seconds_per_solved": summary.per_solved(summary.wall_seconds),
        "sandbox_seconds_per_solved": summary.per_solved(summary.sandbox_seconds),
        **{name: str(path) for name, path in _files(folder).items()},
    }


def _lines(folder: BatchFolder, summary: Summary, num_left: int) -> Iterator[str]:
    rate = f"  {summary.solved_rate:.1%} of those judged" if summary.solved_rate is not None else ""
    yield f"solved       {summary.num_solved}{rate}"
    yield f"unsolved     {summary.num_unsolved}"
    yield f"invalid      {summary.num_invalid}"
    yield f"infra        {summary.num_infra}"
    if num_left:
        yield f"not ended    {num_left}"
    each = summary.per_solved(summary.num_tokens)
    yield f"tokens       {summary.num_tokens:,}" + (f", {each:,.0f} per solved" if each else "")
    yield f"time         {_time(summary, summary.wall_seconds)}"
    yield f"in sandboxes {_time(summary, summary.sandbox_seconds)}"
    for name, path in _files(folder).items():
        yield f"{name:<12} {path}"


def _time(summary: Summary, seconds: float) -> str:
    each = summary.per_solved(seconds)
    return duration(seconds) + (f", {duration(each)} per solved" if each else "")


def _files(folder: BatchFolder) -> dict[str, Any]:
    return {
        "results": folder.results_path,
        "predictions": folder.predictions_path,
        "page": folder.page_path,
    }
