"""The main job with the default model: a real bug of a real library is repaired through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.bench.sdist import Index
from pipeline.core import Task
from tests.benchmarks.real_cases.build import build_cases
from tests.benchmarks.real_cases.case import load_cases, source_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

CASE = "boltons-indexedset-update"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    [task] = build_cases(load_cases(only=[CASE]), tmp_path_factory.mktemp("cases"), Index())
    return task


def test_the_default_model_repairs_a_real_library_and_leaves_the_working_tree_alone(task: Task) -> None:
    tests = [argument for test_id in task.fail_to_pass for argument in ("--test", test_id)]
    command = [Path(sys.executable).with_name("loopwright"), "fix", task.repo, "--json", *tests]
    command += ["--issue", task.statement, "--test-command", task.test_command, "--sandbox", "bubblewrap"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["status"]) == (0, "solved")
    assert answer["verdict"]["num_fixed"] == len(task.fail_to_pass)
    assert answer["paths"] == [source_of(task).fixed_functions[0].partition("::")[0]]
    assert "Content-Security-Policy" in Path(answer["report"]).read_text("utf-8")
    status = subprocess.run(
        ["git", "-C", task.repo, "status", "--porcelain"], stdout=subprocess.PIPE, text=True
    )
    assert status.stdout == ""
