"""The window search finds what solves tasks, says how sure that is, and goes on where it was interrupted."""

from __future__ import annotations

import json
import math

import pytest

from model.exceptions import LoopConfigError
from model.window_search import CENTRES, Outcomes, bootstrap, candidates, search

TASKS = [f"task-{i:03}" for i in range(80)]


class Scripted:
    """Depth 1 solves every second task; loops of `good` windows solve three of four; others fewer."""

    def __init__(self, good=()):
        self.good, self.calls = good, []

    def __call__(self, candidate, task):
        self.calls.append((candidate.name, task))
        number = int(task.removeprefix("task-"))
        if candidate.depth == 1:
            return float(number % 2 == 0)
        return float(number % 4 != 3 if candidate.name in self.good else number % 4 == 0)


def test_candidates_are_windows_in_the_middle():
    found = candidates(24, widths=(2, 4), depths=(2, 3), stride=1)
    for one in found:
        centre = (one.loop.window_start + one.loop.window_stop - 1) / 2 / 24
        assert CENTRES[0] - 0.02 <= centre <= CENTRES[1]
        assert one.loop.num_window_layers in (2, 4)
        assert one.depth in (2, 3)
    assert len({one.name for one in found}) == len(found)
    assert "layers 10-13, depth 2, damped_anchored 0.5" in {one.name for one in found}


def test_search_finds_the_window_that_solves_more_and_confirms_it_on_unseen_tasks(tmp_path):
    found = candidates(24)
    evaluate = Scripted(good=(found[17].name,))
    result = search(found, TASKS, evaluate, Outcomes(tmp_path / "o.jsonl", "scripted"), seed=3)
    assert result.best == found[17]
    assert result.is_gain
    assert result.confirmed.num_tasks == 40
    assert result.confirmed.value == pytest.approx(0.25, abs=0.15)
    seen = {task for name, task in evaluate.calls if name not in ("plain", found[17].name)}
    assert len(seen) <= 40


def test_search_without_a_good_window_recommends_none(tmp_path):
    result = search(candidates(24), TASKS, Scripted(), Outcomes(tmp_path / "o.jsonl", "scripted"))
    assert not result.is_gain
    assert result.confirmed.high < 0


def test_halving_spends_far_less_than_every_candidate_on_every_task(tmp_path):
    found = candidates(24)
    evaluate = Scripted()
    search(found, TASKS, evaluate, Outcomes(tmp_path / "o.jsonl", "scripted"))
    assert len(evaluate.calls) == len(set(evaluate.calls))
    assert len(evaluate.calls) < len(found) * len(TASKS) / 3


def test_interrupted_search_goes_on_and_comes_to_the_same_end(tmp_path):
    found, path = candidates(24), tmp_path / "o.jsonl"
    whole = Scripted(good=(found[5].name,))
    expected = search(found, TASKS, whole, Outcomes(tmp_path / "whole.jsonl", "scripted"))

    class Dies(Scripted):
        def __call__(self, candidate, task):
            if len(self.calls) == 100:
                raise KeyboardInterrupt
            return super().__call__(candidate, task)

    with pytest.raises(KeyboardInterrupt):
        search(found, TASKS, Dies(good=whole.good), Outcomes(path, "scripted"))
    with path.open("a") as file:
        file.write('{"candidate": "layers 1')  # the write that was cut
    rest = Scripted(good=whole.good)
    assert search(found, TASKS, rest, Outcomes(path, "scripted")) == expected
    assert len(rest.calls) == len(whole.calls) - 100
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_outcomes_of_another_evaluator_are_not_mixed_in(tmp_path):
    Outcomes(tmp_path / "o.jsonl", "one")
    with pytest.raises(LoopConfigError, match="holds outcomes of 'one'"):
        Outcomes(tmp_path / "o.jsonl", "other")
    (tmp_path / "x").write_text("[1]\n")
    with pytest.raises(LoopConfigError, match="is no file of outcomes"):
        Outcomes(tmp_path / "x", "one")


def test_interval_is_over_tasks():
    assert bootstrap([1.0] * 10).low == 1.0
    one = bootstrap([1.0, -1.0] * 20)
    assert one.low < 0 < one.high
    assert math.isnan(bootstrap([1.0]).low)


def test_too_few_tasks_are_refused(tmp_path):
    with pytest.raises(LoopConfigError, match="at least four tasks"):
        search(candidates(24), TASKS[:3], Scripted(), Outcomes(tmp_path / "o.jsonl", "scripted"))
    with pytest.raises(LoopConfigError, match="no window"):
        candidates(24, widths=(30,))
