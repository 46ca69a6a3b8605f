"""`loopwright fix` with an engine of its own, on a tiny random checkpoint that solves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from model.testing import make_tiny_qwen2
from pipeline.runs import RunFolder
from tests.unit.planner import make_repository

pytestmark = pytest.mark.integration

LOOPWRIGHT = [sys.executable, "-c", "from pipeline.cli import main; main()"]
PATIENCE_SECONDS = 400


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_tiny_qwen2(tmp_path_factory.mktemp("tiny"), max_position_embeddings=8192)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOOPWRIGHT_SANDBOX__KIND", "bubblewrap")
    monkeypatch.setenv("LOOPWRIGHT_ENGINE__KV_CACHE_BYTES", str(64 << 20))
    monkeypatch.setenv("LOOPWRIGHT_ENGINE__MAX_MODEL_TOKENS", "8192")
    monkeypatch.setenv("LOOPWRIGHT_PLANNER__MAX_PROMPT_TOKENS", "4096")  # the tokenizer counts bytes
    return tmp_path / "home"


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


def test_a_run_drafts_at_its_depth_with_an_engine_of_its_own_which_ends_with_it(home, checkpoint):
    process = start(home, checkpoint, "deep", "--depth", "2", "--json")
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    result = json.loads(stdout)
    assert (process.returncode, result["status"]) == (3, "unsolved"), stderr
    assert "starting the engine ..." in stderr
    assert "the engine is up" in stderr
    drafts = RunFolder(home / "runs/deep").load().rounds[0].candidates
    assert {draft.completion.recurrence_depth for draft in drafts} == {2}
    assert processes_of(home) == []


def test_ctrl_c_while_the_engine_starts_leaves_nothing_running(home, checkpoint):
    process = start(home, checkpoint, "starting")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any("raylet" in command for command in processes_of(home)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the engine never began to start"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, stderr
    assert "loopwright fix --resume starting" in stderr
    assert "Traceback" not in stderr
    assert processes_of(home) == []
