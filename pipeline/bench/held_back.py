"""Holds back half of a task's tests: the search works with the visible half, its patch is judged with all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from pipeline.core import Task


def visible_half(task: Task, seed: int = 0) -> Task:
    """Return the task with half of its tests left out, always the same ones for a seed and a task.

    Test functions are divided, and the parameters of one where there is no other; a single test stays
    visible. Where no passing tests are named, all that pass on the base stay visible. A statement that names
    a test that was left out is left out too.
    """
    failing = _half(task.fail_to_pass, f"{seed}:{task.task_id}:fail")
    passing = _half(task.pass_to_pass, f"{seed}:{task.task_id}:pass")
    is_told = any(test_id in task.statement for test_id in {*task.fail_to_pass} - {*failing})
    return task.model_copy(
        update={
            "fail_to_pass": failing,
            "pass_to_pass": passing,
            "statement": "" if is_told else task.statement,
        }
    )


def num_held_back(task: Task, visible: Task) -> int:
    """Return how many of the task's named tests the other one does not name."""
    named = {*visible.fail_to_pass, *visible.pass_to_pass}
    return len({*task.fail_to_pass, *task.pass_to_pass} - named)


def _half(test_ids: Sequence[str], key: str) -> tuple[str, ...]:
    """Return the ids of half of the test functions, the larger one, in their order."""
    functions = {test_id: test_id.partition("[")[0] for test_id in test_ids}
    is_one = len(set(functions.values())) == 1
    unit = {test_id: test_id if is_one else function for test_id, function in functions.items()}
    kept = set(_drawn(set(unit.values()), key))
    return tuple(test_id for test_id in test_ids if unit[test_id] in kept)


def _drawn(names: Iterable[str], key: str) -> list[str]:
    """Return half of the names, rounded up, by a draw of lots that no other name has a part in."""
    lots = sorted(names, key=lambda name: hashlib.sha256(f"{key}:{name}".encode()).digest())
    return lots[: -(-len(lots) // 2)]
