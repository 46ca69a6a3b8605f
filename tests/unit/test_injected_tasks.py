"""The committed benchmark of injected bugs is sound as a file: recipes, gold and split are all there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from pipeline.bench.build import read_tasks
from pipeline.bench.operators import OPERATORS
from pipeline.bench.recipe import injected
from tests.benchmarks.real_cases.case import load_cases, source_of

FOLDER = Path(__file__).parents[1] / "benchmarks" / "injected"
TASKS = read_tasks(FOLDER / "tasks.jsonl")


def test_every_task_has_failing_tests_a_public_source_and_a_place_that_its_diff_changes():
    for task in TASKS:
        facts = injected(task)
        assert task.fail_to_pass
        assert not task.statement  # the name of a test may be told, never the place
        assert facts.recipe.source.kind == "sdist"
        changed = set(re.findall(r"^\+\+\+ b/(.*)$", facts.recipe.diff, re.MULTILINE))
        assert changed == set(facts.recipe.sha256_by_path)
        assert changed == {place.function.partition("::")[0] for place in facts.gold}
        assert len(facts.gold) == len(facts.recipe.operators)
        assert (len(facts.gold) == 1) == (facts.recipe.sites == "single")
        assert set(facts.recipe.operators) <= set(OPERATORS)


def test_both_parts_are_large_enough_and_share_no_library():
    parts: dict[str, set[str]] = {"dev": set(), "held_out": set()}
    for task in TASKS:
        parts[injected(task).split].add(injected(task).recipe.source.project)
    sizes = Counter(injected(task).split for task in TASKS)
    assert min(sizes["dev"], sizes["held_out"]) >= 30
    assert len(parts["dev"] | parts["held_out"]) >= 8
    assert not parts["dev"] & parts["held_out"]
    assert not parts["held_out"] & {source_of(case).project for case in load_cases()}


def test_no_operator_and_no_repository_makes_up_most_of_it():
    operators = Counter(name for task in TASKS for name in injected(task).recipe.operators)
    projects = Counter(injected(task).recipe.source.project for task in TASKS)
    assert len(operators) >= 12
    assert max(operators.values()) <= len(TASKS) / 5
    assert max(projects.values()) <= len(TASKS) / 5
    assert any(injected(task).recipe.sites != "single" for task in TASKS)
