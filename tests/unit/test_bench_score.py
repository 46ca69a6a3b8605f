"""Patches are judged with all tests of their task, and half of the tests can be kept from the search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.bench.held_back import num_held_back, visible_half
from pipeline.bench.score import Scorer, read_predictions
from pipeline.cli.app import app
from pipeline.core import Outcome, SandboxResult, Task
from pipeline.exceptions import InputError, SandboxError
from pipeline.ledger import LedgerSandbox
from pipeline.patch import new_file_diff, unified_diff
from pipeline.protocols import Sandbox
from pipeline.testing import RecordingSandbox
from tests.unit.planner import (
    MODULE,
    SOURCE,
    TEST,
    TEST_SOURCE,
    NoEnvironment,
    files_of,
    make_repository,
    make_task,
    played,
)

RIGHT = unified_diff(MODULE, SOURCE.encode(), SOURCE.replace("a - b", "a + b").encode())
OVER_FIT = unified_diff(MODULE, SOURCE.encode(), SOURCE.replace("a - b", "3").encode())
BREAKS = unified_diff(
    MODULE, SOURCE.encode(), SOURCE.replace("a - b", "a + b").replace("x * 2", "x").encode()
)
ADD, ZERO, DOUBLE = (f"{TEST}::test_{name}" for name in ("add", "add_zero", "double"))


def scorer(tmp_path: Path, sandbox: Sandbox | None = None) -> Scorer:
    return Scorer(sandbox=sandbox or played(), environments=NoEnvironment(), clone_cache=tmp_path / "clones")


@pytest.fixture
def task(tmp_path) -> Task:
    # add(5, 0) is right already: what fails is test_add alone.
    both = {"fail_to_pass": (ADD,), "pass_to_pass": (ZERO, DOUBLE)}
    return make_task(make_repository(tmp_path / "calc"), **both)


@pytest.mark.parametrize(
    ("diff", "verdict", "num_broken"),
    [(RIGHT, "resolved", 0), (OVER_FIT, "regressed", 1), (BREAKS, "regressed", 1), ("", "no_patch", 0)],
)
async def test_a_patch_is_judged_with_all_tests_of_its_task(tmp_path, task, diff, verdict, num_broken):
    score = await scorer(tmp_path).score(task, diff)
    assert (score.verdict, score.num_broken) == (verdict, num_broken)
    assert score.resolved == (verdict == "resolved")


async def test_what_a_task_does_not_name_is_what_fails_and_passes_on_its_base(tmp_path, task):
    unnamed = task.model_copy(update={"fail_to_pass": (), "pass_to_pass": ()})
    good, bad = [await scorer(tmp_path).score(unnamed, diff) for diff in (RIGHT, BREAKS)]
    assert (good.resolved, good.num_fixed, good.num_kept) == (True, 1, 2)
    assert (bad.resolved, bad.num_fixed, bad.num_broken) == (False, 1, 1)


async def test_an_id_that_means_several_tests_means_those_that_fail_on_the_base(tmp_path, task):
    whole_file = task.model_copy(update={"fail_to_pass": (TEST,)})
    score = await scorer(tmp_path).score(whole_file, RIGHT)
    assert (score.resolved, score.num_target) == (True, 1)


async def test_a_patch_that_does_not_apply_is_no_answer_and_costs_no_run(tmp_path, task):
    sandbox = played()
    score = await scorer(tmp_path, sandbox).score(task, RIGHT.replace("a - b", "a ^ b"))
    assert (score.verdict, score.resolved) == ("not_applied", False)
    assert "does not apply" in score.reason
    assert sandbox.requests == []


async def test_tests_and_their_settings_are_the_tasks_own_whatever_a_patch_does_to_them(tmp_path, task):
    sandbox = played()
    forged = (
        RIGHT
        + unified_diff(TEST, TEST_SOURCE.encode(), b"def test_add(): pass\n")
        + new_file_diff("conftest.py", b"import os\nos._exit(0)\n")
        + new_file_diff("calc/more.py", b"x = 1\n")
    )
    score = await scorer(tmp_path, sandbox).score(task, forged)
    assert score.resolved
    [request] = sandbox.requests
    seen = files_of(request)
    assert seen[TEST] == TEST_SOURCE.encode()
    assert "conftest.py" not in seen
    assert seen["calc/more.py"] == b"x = 1\n"


async def test_what_was_judged_is_not_run_again(tmp_path, task):
    sandbox = played()
    unnamed = task.model_copy(update={"pass_to_pass": ()})
    for _ in range(2):
        score = await scorer(tmp_path, LedgerSandbox(sandbox, tmp_path / "ledger")).score(unnamed, RIGHT)
        assert score.resolved
    assert len(sandbox.requests) == 3  # the patched tree, and twice the base


async def test_a_sandbox_that_fails_is_no_judgement(tmp_path, task):
    broken = RecordingSandbox(lambda _: SandboxResult(outcome=Outcome.INFRA_ERROR, error="no disk"))
    with pytest.raises(SandboxError):
        await scorer(tmp_path, broken).score_all([task], {task.task_id: RIGHT})


async def test_all_patches_of_a_file_are_judged_in_the_order_of_the_tasks(tmp_path, task):
    tasks = [task.model_copy(update={"task_id": name}) for name in ("c", "a", "b")]
    path = tmp_path / "predictions.jsonl"
    lines = [{"instance_id": "b", "model_patch": RIGHT}, {"instance_id": "c", "model_patch": None}]
    path.write_text("".join(json.dumps({"model_name_or_path": "m", **line}) + "\n" for line in lines))
    scores = await scorer(tmp_path).score_all(tasks, read_predictions(path))
    assert [(score.instance_id, score.resolved) for score in scores] == [("c", False), ("b", True)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_patch": ""}', "line 1 is no prediction: instance_id"),
        ('{"instance_id": "a"}\n{"instance_id": "a"}', "line 2: a is there twice"),
        ("nonsense", "line 1 is no prediction"),
    ],
)
def test_a_file_that_holds_no_predictions_is_refused(tmp_path, text, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_predictions(path)


def test_a_patch_of_a_task_that_is_not_there_is_told(tmp_path, task):
    tasks, patches = tmp_path / "tasks.jsonl", tmp_path / "predictions.jsonl"
    tasks.write_text(task.model_dump_json() + "\n")
    patches.write_text('{"instance_id": "other", "model_patch": ""}\n')
    result = CliRunner().invoke(app, ["bench", "score", str(tasks), str(patches)])
    assert result.exit_code == 2
    assert "has no task other" in result.stderr


def named(task: Task, *failing: str, passing: tuple[str, ...] = (), statement: str = "") -> Task:
    more = {"fail_to_pass": failing, "pass_to_pass": passing, "statement": statement}
    return task.model_copy(update=more)


def test_half_of_the_test_functions_stay_visible_always_the_same_ones(task):
    ids = [f"t.py::test_{i}[{p}]" for i in range(5) for p in "ab"]
    whole = named(task, *ids, passing=tuple(f"p.py::test_{i}" for i in range(4)))
    visible = visible_half(whole)
    assert visible == visible_half(whole)
    functions = {test_id.partition("[")[0] for test_id in visible.fail_to_pass}
    assert len(functions) == 3
    assert len(visible.fail_to_pass) == 6  # a function is visible or held back with all its parameters
    assert len(visible.pass_to_pass) == 2
    assert num_held_back(whole, visible) == 4 + 2
    others = {visible_half(whole, seed).fail_to_pass for seed in range(20)}
    assert len(others) > 1
    named_otherwise = whole.model_copy(update={"task_id": "another"})
    assert {visible_half(named_otherwise, seed).fail_to_pass for seed in range(20)} != {visible.fail_to_pass}


def test_one_function_is_divided_by_its_parameters_and_a_single_test_stays(task):
    divided = visible_half(named(task, *(f"t.py::test[{i}]" for i in range(4))))
    assert len(divided.fail_to_pass) == 2
    alone = named(task, "t.py::test", passing=("p.py::test",))
    assert visible_half(alone) == alone
    assert num_held_back(alone, visible_half(alone)) == 0
    # Named by nobody, all that pass on the base are visible.
    assert visible_half(named(task, "t.py::a", "t.py::b")).pass_to_pass == ()


def test_a_statement_does_not_name_what_is_held_back(task):
    whole = named(task, "t.py::test_1", "t.py::test_2", statement="These fail: t.py::test_1, t.py::test_2")
    assert visible_half(whole).statement == ""
    said = named(task, "t.py::test_1", "t.py::test_2", statement="It counts wrong.")
    assert visible_half(said).statement == "It counts wrong."
