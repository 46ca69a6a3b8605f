"""`loopwright fix` with an engine of its own, on a tiny random checkpoint that solves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from pipeline.runs import RunFolder
from tests.integration.batch_tools import LOOPWRIGHT
from tests.unit.planner import make_repository

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 400


def start(home: Path, checkpoint: Path, run_id: str, *args: str) -> subprocess.Popen[str]:
    repo = make_repository(home.parent / "calc")
    command = [*LOOPWRIGHT, "fix", repo, "--model", checkpoint, "--run-id", run_id, "--rounds", "1", *args]
    return subprocess.Popen(
        [*map(str, command), "--candidates", "2", "--max-depth", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of(home: Path) -> list[str]:
    """Return the command lines of all processes that were started with this home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("LOOPWRIGHT_HOME") == str(home):
                found.append(" ".join(process.cmdline()))
    return found


def test_a_run_drafts_at_its_depth_with_an_engine_of_its_own_which_ends_with_it(engine_home, checkpoint):
    process = start(engine_home, checkpoint, "deep", "--depth", "2", "--json")
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    result = json.loads(stdout)
    assert (process.returncode, result["status"]) == (3, "unsolved"), stderr
    assert "starting the engine ..." in stderr
    assert "the engine is up" in stderr
    drafts = RunFolder(engine_home / "runs/deep").load().rounds[0].candidates
    assert {draft.completion.recurrence_depth for draft in drafts} == {2}
    assert processes_of(engine_home) == []


def test_ctrl_c_while_the_engine_starts_leaves_nothing_running(engine_home, checkpoint):
    process = start(engine_home, checkpoint, "starting")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any("raylet" in command for command in processes_of(engine_home)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the engine never began to start"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, stderr
    assert "loopwright fix --resume starting" in stderr
    assert "Traceback" not in stderr
    assert processes_of(engine_home) == []
