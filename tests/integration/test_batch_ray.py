"""`loopwright batch` over Ray: planners on actors, a warm engine that recites, an engine of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.batch_tools import ledger_of, make_tasks, processes_of, results_of, rows_of, start

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 400


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """One home for all, so that the target's environment is made once."""
    home = tmp_path_factory.mktemp("home")
    values = {
        "LOOPWRIGHT_HOME": str(home),
        "LOOPWRIGHT_SANDBOX__KIND": "bubblewrap",
        "LOOPWRIGHT_ENGINE__KV_CACHE_BYTES": str(64 << 20),
        "LOOPWRIGHT_ENGINE__MAX_MODEL_TOKENS": "8192",
        "LOOPWRIGHT_PLANNER__MAX_PROMPT_TOKENS": "4096",  # the tiny model's tokenizer counts bytes
        "LOOPWRIGHT_LIMITS__SANDBOX__WALL_SECONDS": "30",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield home


@pytest.fixture
def warm_engine(home, checkpoint) -> Iterator[None]:
    """An engine that outlives the commands; it recites."""
    command = [sys.executable, "-m", "tests.integration.scripted_engine", str(checkpoint)]
    engine = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert engine.stdin
    assert engine.stdout
    assert engine.stdout.readline() == "up\n"
    try:
        yield
    finally:
        engine.stdin.close()
        engine.wait(timeout=60)


def arguments(tasks: Path, out: Path, checkpoint: Path, *more: str) -> list[object]:
    options = ["--model", checkpoint, "--rounds", "1", "--candidates", "4", "--json", *more]
    return [tasks, "--out", out, *options]


def finished(command: list[object]) -> tuple[dict, str]:
    """Run the batch to its end; return its summary and its stderr."""
    process = start(*command)
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, stderr
    return json.loads(stdout), stderr


def killed(command: list[object], is_time: Callable[[], bool]) -> None:
    """Start the batch, and kill its driver when it is time."""
    process = start(*command)
    _wait_until(lambda: is_time() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()


def test_killed_drivers_leave_no_planner_behind_and_the_end_is_that_of_an_undisturbed_batch(
    warm_engine, home, checkpoint, tmp_path
):
    tasks, out, undisturbed = make_tasks(tmp_path, 3), tmp_path / "out", tmp_path / "undisturbed"
    summary, _ = finished(arguments(tasks, undisturbed, checkpoint))
    assert summary["num_solved"] == 3
    assert _gone(lambda: processes_of(home, "PlannerActor")) == []

    paid: dict[Path, tuple[int, int]] = {}
    for num_more in (1, 4):
        enough = len(paid) + num_more
        killed(arguments(tasks, out, checkpoint), lambda enough=enough: len(ledger_of(out)) >= enough)
        assert _gone(lambda: processes_of(home, "PlannerActor", "bwrap")) == []
        now = ledger_of(out)
        assert paid.items() <= now.items(), "something was paid for twice"
        paid = now
    finished(arguments(tasks, out, checkpoint, "--workers", "1"))  # however many run at once
    assert paid.items() <= ledger_of(out).items(), "something was paid for twice"
    assert results_of(out) == results_of(undisturbed)


def test_a_planner_that_is_killed_is_replaced_and_its_instances_go_on(
    warm_engine, home, checkpoint, tmp_path
):
    tasks, out = make_tasks(tmp_path, 3), tmp_path / "out"
    process = start(*arguments(tasks, out, checkpoint))
    _wait_until(lambda: len(ledger_of(out)) >= 2 or process.poll() is not None)
    paid = ledger_of(out)
    # A child that it has forked, to start a sandbox, is named like it for a moment.
    planner = min(processes_of(home, "PlannerActor"), key=lambda process: process.create_time())
    os.kill(planner.pid, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, stderr
    assert "a planner died" in stderr
    assert json.loads(stdout)["num_solved"] == 3
    assert paid.items() <= ledger_of(out).items(), "something was paid for twice"


def test_ctrl_c_ends_planners_in_order_and_leaves_the_warm_engine_alone(
    warm_engine, home, checkpoint, tmp_path
):
    tasks, out = make_tasks(tmp_path, 2), tmp_path / "out"
    process = start(*arguments(tasks, out, checkpoint))
    _wait_until(lambda: len(ledger_of(out)) >= 1 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, stderr
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert _gone(lambda: processes_of(home, "PlannerActor", "bwrap")) == []
    assert processes_of(home, "raylet") != []
    summary, _ = finished(arguments(tasks, out, checkpoint))
    assert summary["num_solved"] == 2


def test_an_engine_of_its_own_ends_with_a_killed_driver_and_drafts_the_same_when_resumed(
    home, checkpoint, tmp_path
):
    tasks, out, undisturbed = make_tasks(tmp_path, 3), tmp_path / "out", tmp_path / "undisturbed"
    summary, _ = finished(arguments(tasks, undisturbed, checkpoint))
    assert summary["num_unsolved"] == 3  # it is random
    assert {row.num_candidates for row in rows_of(undisturbed).values()} == {4}
    assert _gone(lambda: processes_of(home)) == []

    killed(arguments(tasks, out, checkpoint), lambda: any(out.glob("instances/*/ledger/completions-*")))
    assert _gone(lambda: processes_of(home)) == []
    paid = ledger_of(out)
    finished(arguments(tasks, out, checkpoint))
    assert paid.items() <= ledger_of(out).items(), "something was paid for twice"
    assert results_of(out) == results_of(undisturbed)
    assert _gone(lambda: processes_of(home)) == []


def _gone(find: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    """Return what is still there after it had time to go."""
    deadline = time.monotonic() + 60
    while (left := find()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
