"""`loopwright bench run` as a user runs it: batches in real sandboxes, with a model behind an endpoint."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from pipeline.bench.build import write_tasks
from pipeline.bench.recipe import GitSource, Injected, Place, Recipe
from pipeline.core import Task
from pipeline.patch import unified_diff
from tests.integration.batch_tools import LOOPWRIGHT
from tests.integration.model_server import serving
from tests.unit.planner import FILES, MODULE, SOURCE, TEST, TEST_SOURCE, make_repository

pytestmark = pytest.mark.integration

WORKS = SOURCE.replace("a - b", "a + b")
RIGHT = "```python\ndef add(a, b):\n    return a + b\n```"


MORE_TESTS = TEST_SOURCE + "\n\ndef test_add_more():\n    assert add(1, 4) == 5\n"
OVER_FIT = "```python\ndef add(a, b):\n    return a + min(b, 2)\n```"  # does for test_add and no further


def task_file(tmp_path: Path, tests: str = TEST_SOURCE, failing: tuple[str, ...] = ("test_add",)) -> Path:
    repo = make_repository(tmp_path / "calc", {**FILES, MODULE: WORKS, TEST: tests})
    head = subprocess.run(
        ["git", "-C", repo, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    recipe = Recipe(
        source=GitSource(project="calc", repo=str(repo), commit=head.stdout.strip()),
        diff=unified_diff(MODULE, WORKS.encode(), SOURCE.encode()),
        sha256_by_path={MODULE: hashlib.sha256(SOURCE.encode()).hexdigest()},
        operators=("arithmetic-swap",),
        sites="single",
        seed=0,
    )
    gold = (Place(function=f"{MODULE}::add", lines=(6, 6)),)
    task = Task(
        task_id="calc-1",
        repo="calc-1/repo",
        test_command=f"python -m pytest {TEST}",
        fail_to_pass=tuple(f"{TEST}::{name}" for name in failing),
        metadata=Injected(split="dev", recipe=recipe, gold=gold).model_dump(mode="json"),
    )
    write_tasks([task], tmp_path / "tasks.jsonl")
    return tmp_path / "tasks.jsonl"


def bench_run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return bench("run", *arguments)


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*LOOPWRIGHT, "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_an_ablation_is_run_reported_and_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOOPWRIGHT_SANDBOX__KIND", "bubblewrap")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out, config = tmp_path / "out", tmp_path / "config.yaml"
    axes = ["--axis", "strategy=definition", "--axis", "localisation=own,oracle", "--axis", "candidates=2"]
    with serving(RIGHT) as server:
        config.write_text(f"endpoint: {{url: '{server.url}'}}\n")
        arguments = [task_file(tmp_path), "--out", out, "--config", config, "--no-plots", *axes]
        done = bench_run(*arguments)
        assert done.returncode == 0, done.stderr
        num_drafts = server.num_drafts
        again = bench_run(*arguments)
    assert again.returncode == 0, again.stderr
    assert num_drafts == server.num_drafts > 0
    assert again.stdout == done.stdout == (out / "report.md").read_text()
    values = json.loads((out / "report.json").read_text())
    assert list(values["variants"]) == ["baseline", "localisation-oracle"]
    found = values["variants"]["baseline"]["figures"]
    assert (found["num_solved"], found["solved_at"]["1"]["value"], found["recall_at"]["1"]["value"]) == (
        1,
        1,
        1,
    )
    # No prompt could hold the answer's place: the tasks that were run do not know it.
    assert "metadata" not in (out / "variants" / "baseline.jsonl").read_text()


def test_a_patch_that_only_satisfies_the_visible_tests_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOOPWRIGHT_SANDBOX__KIND", "bubblewrap")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out, config = tmp_path / "out", tmp_path / "config.yaml"
    tasks = task_file(tmp_path, MORE_TESTS, ("test_add", "test_add_more"))
    axes = ["strategy=definition", "localisation=oracle", "candidates=2", "tests=half"]
    with serving(OVER_FIT) as server:
        config.write_text(f"endpoint: {{url: '{server.url}'}}\n")
        options = [option for axis in axes for option in ("--axis", axis)]
        done = bench_run(tasks, "--out", out, "--config", config, "--no-plots", *options)
        assert done.returncode == 0, done.stderr
        assert server.num_drafts
    [given] = [json.loads(line) for line in (out / "variants" / "baseline.jsonl").read_text().splitlines()]
    assert given["fail_to_pass"] == [f"{TEST}::test_add"]
    found = json.loads((out / "report.json").read_text())["variants"]["baseline"]["over_fit"]
    assert (found["num_solved"], found["num_checked"], found["num_over_fit"]) == (1, 1, 1)

    built, patches = tmp_path / "built", out / "variants" / "baseline" / "predictions.jsonl"
    assert bench("build", tasks, "--out", built).returncode == 0
    scored = bench("score", built / "tasks.jsonl", patches)
    assert scored.returncode == 0, scored.stderr
    score = json.loads(scored.stdout)
    assert (score["resolved"], score["num_fixed"], score["num_target"], score["num_broken"]) == (
        False,
        1,
        2,
        0,
    )
    assert "0 of 1 resolved" in scored.stderr
