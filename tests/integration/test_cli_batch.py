"""`loopwright batch` as a user runs it, with real sandboxes and a model behind an endpoint."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.batch_tools import (
    LOOPWRIGHT,
    ledger_of,
    make_tasks,
    processes_of,
    results_of,
    rows_of,
    start,
)
from tests.integration.model_server import ModelServer, serving
from tests.unit.planner import MODULE

pytestmark = pytest.mark.integration

RIGHT = "```python\ndef add(a, b):\n    return a + b\n```"
WRONG = "```python\ndef add(a, b):\n    return a * b\n```"
PATIENCE_SECONDS = 240


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """One home for all, so that the target's environment is made once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _environment(home, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(home))
    monkeypatch.setenv("LOOPWRIGHT_SANDBOX__KIND", "bubblewrap")
    monkeypatch.setenv("LOOPWRIGHT_LIMITS__SANDBOX__WALL_SECONDS", "30")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def arguments(tasks: Path, out: Path, server: ModelServer, *more: str) -> list[object]:
    options = ["--endpoint", server.url, "--rounds", "1", "--candidates", "3", *more]
    return [tasks, "--out", out, *options]


def batch(*args: object) -> subprocess.CompletedProcess[str]:
    command = [*LOOPWRIGHT, "batch", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def test_a_file_of_tasks_ends_in_rows_patches_reports_and_a_page(tmp_path):
    tasks, out = make_tasks(tmp_path, 3), tmp_path / "out"
    with tasks.open("a") as stream:
        stream.write('{"instance_id": "nowhere", "repo": "./nowhere"}\nbroken\n')
    with serving(RIGHT) as server:
        done = batch(*arguments(tasks, out, server, "--json"))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["num_solved"], summary["num_invalid"], summary["num_left"]) == (3, 2, 0)
    assert summary["solved_rate"] == 1.0
    assert "solved   calc1 (" in done.stderr
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [line["instance_id"] for line in lines] == ["calc0", "calc1", "calc2"]
    subprocess.run(
        ["git", "-C", tmp_path / "calc2", "apply"], input=lines[2]["model_patch"], text=True, check=True
    )
    assert "return a + b" in (tmp_path / "calc2" / MODULE).read_text()
    assert 'href="instances/calc2/report.html"' in (out / "index.html").read_text()
    assert (out / "instances/calc2/report.html").exists()


def test_an_endpoint_that_does_not_answer_leaves_everything_to_be_done(tmp_path):
    tasks = make_tasks(tmp_path, 1)
    done = batch(tasks, "--out", tmp_path / "out", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m")
    assert done.returncode == 4
    assert "127.0.0.1:9" in done.stderr
    assert "1 instance left" in done.stderr


def run_and_kill(command: list[object], is_time: Callable[[], bool], delay: float) -> int | None:
    """Start the batch, kill it some time after it is time to; return its exit code if it ended before."""
    process = start(*command)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None:
        assert time.monotonic() < deadline, "it stands still"
        if is_time():
            try:
                process.communicate(timeout=delay)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                return None
        time.sleep(0.02)
    process.communicate()
    return process.returncode


def test_a_batch_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path, home):
    tasks, out, undisturbed = make_tasks(tmp_path, 4), tmp_path / "out", tmp_path / "undisturbed"
    dice = random.Random(11)
    with serving(WRONG) as server:
        done = batch(*arguments(tasks, undisturbed, server))
        assert done.returncode == 0, done.stderr
        paid: dict[Path, tuple[int, int]] = {}
        code, num_kills = None, 0
        while code is None:
            enough = len(paid) + dice.randint(1, 4)  # of some two dozen
            code = run_and_kill(
                arguments(tasks, out, server),
                lambda n=enough: len(ledger_of(out)) >= n,
                dice.uniform(0.0, 1.5),
            )
            num_kills += code is None
            now = ledger_of(out)
            assert paid.items() <= now.items(), "something was paid for twice"
            paid = now
            _wait_until(lambda: processes_of(home) == [])
    assert (code, num_kills > 2) == (0, True)
    assert results_of(out) == results_of(undisturbed)
    assert set(rows_of(out)) == {"calc0", "calc1", "calc2", "calc3"}


def test_ctrl_c_ends_in_order_and_the_same_command_goes_on(tmp_path, home):
    tasks, out = make_tasks(tmp_path, 2), tmp_path / "out"
    with serving(RIGHT) as server:
        server.may_answer.clear()
        process = start(*arguments(tasks, out, server))
        _wait_until(server.was_asked.is_set)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 130, stderr
        assert "2 instances left: the same command goes on with them" in stderr
        assert "Traceback" not in stderr
        # A warm sandbox whose planner got the signal, too, is init's to bury, in its own time.
        _wait_until(lambda: not [child for child in children if child.is_running()])
        assert processes_of(home) == []
        server.may_answer.set()
        done = batch(*arguments(tasks, out, server))
    assert done.returncode == 0, done.stderr
    assert {row.outcome.value for row in rows_of(out).values()} == {"solved"}


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
