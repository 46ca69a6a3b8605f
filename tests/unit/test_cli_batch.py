"""`loopwright batch` as far as it goes without an engine: what it refuses, what it prints, its progress."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipeline.batch.outcome import InstanceOutcome, Row
from pipeline.batch.runner import BatchStatus
from pipeline.cli.app import app
from pipeline.cli.batch_ending import exit_code
from pipeline.cli.batch_progress import PlainBatchProgress, status_line, watched
from pipeline.cli.errors import ExitCode
from pipeline.cli.fleet import default_num_tasks
from pipeline.config import Settings
from pipeline.telemetry import Action, Event
from tests.unit.batches import instance, write_tasks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOLVED, UNSOLVED, INVALID, INFRA = InstanceOutcome


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def batch(*args: object):
    return CliRunner().invoke(app, ["batch", *map(str, args)])


def row(name: str, outcome: InstanceOutcome, **fields: object) -> Row:
    values = {"instance_id": name, "outcome": outcome, "line": 1, "started_at": NOW, "finished_at": NOW}
    return Row(**values | fields)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("none.jsonl", "--out", "OUT"), "cannot read the task file none.jsonl"),
        (("EMPTY", "--out", "OUT"), "holds no task"),
        (("TASKS", "--out", "OUT", "--only", "z"), "the task file has no instance z"),
        (("TASKS", "--out", "OUT", "--redo", "broken"), "--redo: 'broken'"),
        (("TASKS", "--out", "USED"), "is not the folder of a batch"),
        (("TASKS", "--out", "OUT", "--set", "limits.num_rounds=0"), "limits.num_rounds"),
    ],
)
def test_bad_input_ends_with_two_one_line_and_nothing_on_stdout(args, complaint, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.tex").touch()
    (tmp_path / "empty").touch()
    names = {
        "TASKS": write_tasks(tmp_path / "tasks.jsonl", [instance("a")]),
        "EMPTY": tmp_path / "empty",
        "USED": tmp_path / "used",
        "OUT": tmp_path / "out",
    }
    done = batch(*(names.get(arg, arg) for arg in args))
    assert (done.exit_code, done.stdout) == (ExitCode.INPUT, "")
    assert complaint in done.stderr.splitlines()[0]


def test_a_file_of_bad_lines_needs_no_engine_and_has_an_outcome_for_each(tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", ["{", instance("a") | {"repo": "ext::sh"}, "[]"])
    done = batch(tasks, "--out", tmp_path / "out", "--json")
    summary = json.loads(done.stdout)
    assert (done.exit_code, summary["exit_code"], summary["num_invalid"], summary["num_left"]) == (0, 0, 3, 0)
    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [(row["instance_id"], row["outcome"]) for row in rows] == [
        ("line 1", "invalid"),
        ("a", "invalid"),
        ("line 3", "invalid"),
    ]
    assert "not JSON" in (tmp_path / "out/index.html").read_text()
    assert (tmp_path / "out/predictions.jsonl").read_text() == ""


def test_a_model_that_is_not_here_leaves_every_instance_to_be_done(tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", [instance("a"), "{"])
    done = batch(tasks, "--out", tmp_path / "out", "--json")
    summary = json.loads(done.stdout)
    assert (done.exit_code, summary["exit_code"]) == (ExitCode.ENVIRONMENT, ExitCode.ENVIRONMENT)
    assert (summary["num_left"], summary["num_invalid"]) == (1, 1)
    assert "loopwright model pull" in done.stderr


def test_limit_takes_the_first_of_the_file_and_only_takes_the_named(tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", ["[1]", "[2]", "[3]"])
    done = batch(tasks, "--out", tmp_path / "out", "--limit", "2", "--json")
    assert json.loads(done.stdout)["num_invalid"] == 2
    done = batch(tasks, "--out", tmp_path / "out", "--only", "line 3", "--json")
    assert json.loads(done.stdout)["num_invalid"] == 1


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ((SOLVED, UNSOLVED, INVALID, INFRA), 0),
        ((UNSOLVED,), 0),
        ((INVALID,), 0),
        ((INFRA, INFRA), 4),
        ((INFRA, INVALID), 0),
    ],
)
def test_a_batch_fails_only_where_its_environment_let_nothing_through(outcomes, code):
    assert exit_code([row(str(i), outcome) for i, outcome in enumerate(outcomes)]) == code


def test_more_tasks_run_at_once_than_one_alone_can_keep_busy():
    assert default_num_tasks(Settings()) > Settings().sandbox.num_parallel + 1


def status(**changes: object) -> BatchStatus:
    values = {
        "num_total": 10,
        "counts": {SOLVED: 3, INFRA: 1},
        "num_running": 2,
        "num_done_now": 2,
        "num_tokens_now": 5000,
        "seconds": 100.0,
    }
    return BatchStatus(**values | changes)


def test_the_status_says_counts_rates_and_what_is_left():
    assert status_line(status()) == (
        "4 of 10: 3 solved, 0 unsolved, 0 invalid, 1 infra; 2 running; 5,000 tokens, 50/s; "
        "72 tasks/h, 5 min 0 s left"
    )
    fresh = status(counts={}, num_done_now=0, num_tokens_now=0)
    assert status_line(fresh) == "0 of 10: 0 solved, 0 unsolved, 0 invalid, 0 infra; 2 running"


def test_plain_progress_tells_outcomes_at_once_and_the_status_now_and_again():
    lines: list[str] = []
    seconds = 0.0
    progress = PlainBatchProgress(lines.append, now=lambda: seconds)
    progress.emit(Event(Action.STAGE_STARTED, "starting the engine", {"stage": "engine"}))
    progress.emit(Event(Action.PROGRESS, "waiting for the engine: 5 s", {"stage": "engine"}))
    progress.emit(Event(Action.WARNING, "a requirement of one of many", {"stage": "prepare"}))
    for _ in range(61):
        progress.show(status())
        seconds += 1.0
    progress.finished(row("a", UNSOLVED, reason="the \x1b[2Jladder\nends", seconds=61.0, num_tokens=1))
    assert lines == [
        "starting the engine",
        status_line(status()),
        status_line(status()),
        "unsolved a (1 min 1 s, 1 token): the ladder ends",
    ]


def test_on_a_terminal_there_is_one_bar_and_outcomes_stay():
    stream = io.StringIO()
    with watched(Console(file=stream, force_terminal=True, width=160, color_system=None)) as progress:
        progress.emit(Event(Action.PROGRESS, "waiting for the engine: 5 s", {"stage": "engine"}))
        progress.show(status())
        progress.finished(row("[red]a", SOLVED, num_tokens=7))
    assert "solved   [red]a (0.0 s, 7 tokens)\n" in stream.getvalue()
    assert "3 solved, 0 unsolved, 0 invalid, 1 infra; 2 running" in stream.getvalue()
