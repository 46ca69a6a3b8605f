"""`loopwright model search-window` judges windows by the exit codes of a command."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.errors import ExitCode

# Solves every task with the window that begins at layer 2, and none else.
SOLVER = """
import json, sys
task, depth, loop = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
sys.exit(0 if depth > 1 and loop["window_start"] == 2 else 3)
"""


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "config.json").write_text('{"num_hidden_layers": 6}')
    return tmp_path / "dense"


def search(checkpoint: Path, tmp_path: Path, solver: str, *args: str) -> Result:
    (tmp_path / "solver.py").write_text(solver)
    (tmp_path / "tasks.txt").write_text("".join(f"task {i}\n" for i in range(8)))
    command = f"{sys.executable} -S {tmp_path / 'solver.py'} {{task}} {{depth}} {{loop_json}} {{checkpoint}}"
    where = ["--tasks", str(tmp_path / "tasks.txt"), "--results", str(tmp_path / "results.jsonl")]
    every = ["model", "search-window", str(checkpoint), "--evaluate", command, *where, *args]
    return CliRunner().invoke(app, every)


def test_window_that_solves_is_found_and_printed_as_settings(checkpoint, tmp_path):
    args = ("--widths", "2", "--depths", "2", "--stride", "1", "--json")
    got = search(checkpoint, tmp_path, SOLVER, *args)
    assert got.exit_code == 0, got.output
    found = json.loads(got.stdout)
    assert found["is_gain"]
    assert found["best"]["loop"]["window_start"] == 2
    assert found["confirmed"] == {"value": 1.0, "low": 1.0, "high": 1.0, "num_tasks": 4}
    before = (tmp_path / "results.jsonl").read_text()
    assert search(checkpoint, tmp_path, SOLVER, *args).stdout == got.stdout
    assert (tmp_path / "results.jsonl").read_text() == before  # nothing was run again


def test_command_is_given_the_checkpoint_with_the_loop_in_it(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").write_text("weights")
    solver = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[4])
config = json.loads((folder / "config.json").read_text())
same = config["loopwright_loop"] == json.loads(sys.argv[3]) and config["num_hidden_layers"] == 6
sys.exit(0 if same and (folder / "model.safetensors").read_text() == "weights" else 4)
"""
    got = search(checkpoint, tmp_path, solver, "--widths", "2", "--depths", "2")
    assert got.exit_code == 0, got.output


def test_no_gain_is_said_plainly(checkpoint, tmp_path):
    got = search(checkpoint, tmp_path, "raise SystemExit(1)", "--widths", "2", "--depths", "2")
    assert got.stdout.startswith("no window is better than depth 1; the best, layers")
    assert "(0.0 % solved), on 4 tasks that the search did not see" in got.stdout


def test_command_that_breaks_ends_the_search_and_is_no_failure_of_a_window(checkpoint, tmp_path):
    solver = "import sys\nsys.stderr.write('no engine')\nsys.exit(4)"
    got = search(checkpoint, tmp_path, solver)
    assert got.exit_code == ExitCode.ENVIRONMENT
    assert "--evaluate ended with exit code 4: no engine" in got.stderr
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


def test_task_that_takes_too_long_is_unsolved(checkpoint, tmp_path):
    waits = "import sys\nwhile int(sys.argv[2]) == 2: pass\nsys.exit(0)"
    args = ("--widths", "2", "--depths", "2", "--stride", "9", "--task-timeout-seconds", "1")
    got = search(checkpoint, tmp_path, waits, *args)
    assert got.exit_code == 0, got.output
    assert got.stdout.startswith("no window is better than depth 1")
