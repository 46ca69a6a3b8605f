"""`loopwright fix` as a user runs it: a process, a real sandbox, a model behind an endpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.runs import RunFolder
from tests.integration.model_server import ModelServer, serving
from tests.unit.planner import MODULE, SOURCE, make_repository

pytestmark = pytest.mark.integration

RIGHT = "```python\ndef add(a, b):\n    return a + b\n```"
ENDLESS = "```python\ndef add(a, b):\n    while True:\n        pass\n```"
PROSE = "I am sorry, I cannot do that."
LOOPWRIGHT = [sys.executable, "-c", "from pipeline.cli import main; main()"]
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


@pytest.fixture
def repo(tmp_path) -> Path:
    return make_repository(tmp_path / "calc")


def loopwright(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LOOPWRIGHT, *map(str, args)], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


def fix(repo: Path, server: ModelServer, *args: str) -> subprocess.CompletedProcess[str]:
    return loopwright("fix", repo, "--endpoint", server.url, "--rounds", "1", "--candidates", "2", *args)


def status_of(repo: Path) -> str:
    return subprocess.run(
        ["git", "-C", repo, "status", "--porcelain"], capture_output=True, text=True, check=True
    ).stdout


def test_a_dry_run_prints_the_patch_alone_on_stdout_and_leaves_the_tree_as_it_was(repo, home):
    with serving(RIGHT) as server:
        done = fix(repo, server, "--run-id", "dry")
    assert done.returncode == 0, done.stderr
    assert status_of(repo) == ""
    subprocess.run(["git", "-C", repo, "apply"], input=done.stdout, text=True, check=True)
    assert "return a + b" in (repo / MODULE).read_text()
    assert (home / "runs/dry/report.html").read_text().startswith("<!doctype html>")
    for expected in ("1 failing tests to repair", "solved: ", "report.html", "--resume dry --apply"):
        assert expected in done.stderr
    assert "\x1b" not in done.stderr


def test_json_is_one_object_with_the_patch_and_what_it_cost(repo):
    with serving(RIGHT) as server:
        done = fix(repo, server, "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["exit_code"], result["status"]) == (0, 0, "solved")
    assert result["patch"].startswith("diff --git")
    assert result["verdict"]["num_fixed"] == result["verdict"]["num_target"] == 1
    assert (result["num_candidates"], result["recurrence_depth"], result["applied"]) == (2, 1, False)


def test_apply_changes_only_what_the_patch_touches_also_in_a_dirty_tree(repo):
    (repo / MODULE).write_text(SOURCE + "\n\ndef mine():\n    return 1\n")  # not committed
    (repo / "notes.txt").write_text("untracked")
    with serving(RIGHT) as server:
        done = fix(repo, server, "--apply")
    assert done.returncode == 0, done.stderr
    text = (repo / MODULE).read_text()
    assert "return a + b" in text
    assert text.endswith("def mine():\n    return 1\n")
    assert status_of(repo) == f" M {MODULE}\n?? notes.txt\n"


def test_a_solved_run_is_applied_later_without_any_model_but_never_over_what_has_changed_since(repo):
    with serving(RIGHT) as server:
        assert fix(repo, server, "--run-id", "later").returncode == 0

    (repo / MODULE).write_text(SOURCE + "# mine\n")
    refused = loopwright("fix", "--resume", "later", "--apply", "--json")
    assert (refused.returncode, json.loads(refused.stdout)["applied"]) == (2, False)
    assert (repo / MODULE).read_text() == SOURCE + "# mine\n"

    (repo / MODULE).write_text(SOURCE)
    assert loopwright("fix", "--resume", "later", "--apply").returncode == 0
    assert "return a + b" in (repo / MODULE).read_text()


def test_a_model_that_answers_in_prose_ends_unsolved_with_a_report(repo, home):
    with serving(PROSE) as server:
        done = fix(repo, server, "--run-id", "prose")
    assert (done.returncode, done.stdout) == (3, "")
    assert "unsolved: " in done.stderr
    assert "refused" in (home / "runs/prose/report.html").read_text()


def test_tests_that_pass_already_are_told_by_an_exit_code_of_their_own(repo):
    (repo / MODULE).write_text(SOURCE.replace("a - b", "a + b"))
    with serving(RIGHT) as server:
        done = fix(repo, server)
    assert (done.returncode, done.stdout, server.num_drafts) == (5, "", 0)


def test_a_server_that_does_not_answer_is_a_broken_environment_and_can_be_resumed(repo, home):
    done = loopwright("fix", repo, "--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--run-id", "deaf")
    assert (done.returncode, done.stdout) == (4, "")
    assert "127.0.0.1:9" in done.stderr
    assert RunFolder(home / "runs/deaf").load().status == "failed"


def test_a_model_that_is_not_here_names_its_size_and_the_command_that_fetches_it(repo, home):
    done = loopwright("fix", repo, "--run-id", "absent", "--json")
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 4
    assert "1.1 GB" in done.stderr
    assert "loopwright model pull qwen2.5-coder-1.5b" in done.stderr
    assert not (home / "runs/absent").exists()


def stopped(
    send: Callable[[int], None], repo: Path, server: ModelServer, run_id: str, is_time: Callable[[], bool]
):
    """Start a run, stop it once it is time, and return its exit code, its stderr and what is left running."""
    command = [*LOOPWRIGHT, "fix", repo, "--endpoint", server.url, "--rounds", "1", "--candidates", "2"]
    process = subprocess.Popen(
        [*map(str, command), "--run-id", run_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_time():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    send(process.pid)
    _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, stderr, [child for child in children if child.is_running()]


def ctrl_c(pid: int) -> None:
    os.killpg(pid, signal.SIGINT)  # as a terminal does: to the whole group


def terminate(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def test_ctrl_c_while_drafting_leaves_nothing_running_and_a_run_that_can_be_resumed(repo, home):
    with serving(RIGHT) as server:
        server.may_answer.clear()
        code, stderr, left = stopped(ctrl_c, repo, server, "drafting", server.was_asked.is_set)
        assert (code, left) == (130, [])
        assert "loopwright fix --resume drafting" in stderr
        assert "Traceback" not in stderr
        record = RunFolder(home / "runs/drafting").load()
        assert record.status == "interrupted"
        assert (home / "runs/drafting/report.html").exists()

        server.may_answer.set()
        done = loopwright("fix", "--resume", "drafting")
    assert done.returncode == 0, done.stderr
    assert "preparing the target" not in done.stderr  # what was finished is not done again
    assert RunFolder(home / "runs/drafting").load().started_at == record.started_at


def test_sigterm_while_testing_ends_the_sandboxes_and_counts_as_an_interruption(repo, home):
    with serving(ENDLESS) as server:

        def a_draft_is_being_tested() -> bool:
            record = home / "runs/testing/trajectory.json"
            return record.exists() and bool(RunFolder(record.parent).load().rounds[:1]) and _sandboxes() > 0

        code, stderr, left = stopped(terminate, repo, server, "testing", a_draft_is_being_tested)
    assert (code, left) == (130, [])
    assert "loopwright fix --resume testing" in stderr


def test_ctrl_c_while_the_target_is_prepared_leaves_nothing_running(repo, home):
    with serving(RIGHT) as server:
        snapshot = home / "runs/preparing/snapshot.json"
        code, stderr, left = stopped(ctrl_c, repo, server, "preparing", snapshot.exists)
    assert (code, left, server.num_drafts) == (130, [], 0)
    assert "loopwright fix --resume preparing" in stderr


def _sandboxes() -> int:
    """Return how many sandboxes the runs of this test process have open."""
    return sum("bwrap" in child.name() for child in psutil.Process().children(recursive=True))
