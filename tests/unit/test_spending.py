"""A purse holds across parts and processes."""

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.context.reading import Spend
from pipeline.context.spending import BudgetSpentError, DeadlineError, Purse
from pipeline.core import Budget

_CONTEXT = multiprocessing.get_context("spawn")


def _purse(folder: Path, num_calls: int = 10, num_tokens: int = 1000, seconds: float = 600.0) -> Purse:
    budget = Budget(num_calls=num_calls, num_tokens=num_tokens)
    return Purse.open(folder / "spending.sqlite", budget, time.time() + seconds)


def test_what_is_reserved_cannot_be_reserved_again_and_what_was_not_spent_can(tmp_path: Path) -> None:
    purse = _purse(tmp_path)
    first = purse.reserve(1, 900)
    with pytest.raises(BudgetSpentError, match="200 tokens are wanted; 9 calls and 100 tokens are left"):
        purse.reserve(1, 200)
    purse.settle(first, Spend(num_calls=1, num_prompt_tokens=30, num_completion_tokens=20))
    purse.release(purse.reserve(1, 950))
    assert purse.spent() == Spend(num_calls=1, num_prompt_tokens=30, num_completion_tokens=20)
    assert (purse.remaining().num_calls, purse.remaining().num_tokens) == (9, 950)


def test_what_is_settled_is_not_given_back(tmp_path: Path) -> None:
    purse = _purse(tmp_path)
    reservation = purse.reserve(1, 100)
    purse.settle(reservation, Spend(num_calls=1, num_prompt_tokens=100))
    purse.release(reservation)
    assert purse.spent().num_prompt_tokens == 100


def test_what_a_ledger_has_answered_uses_up_the_budget_and_costs_nothing(tmp_path: Path) -> None:
    purse = _purse(tmp_path)
    child = purse.slice(num_calls=5, num_tokens=500)
    used = Spend(num_calls=1, num_prompt_tokens=30, num_completion_tokens=20)
    child.settle(child.reserve(1, 100), used, is_cached=True)
    assert purse.spent() == child.spent() == Spend(num_cached_calls=1)
    purse.settle(purse.reserve(1, 100), used)
    assert purse.spent() == replace(used, num_cached_calls=1)
    assert (purse.remaining().num_calls, purse.remaining().num_tokens) == (8, 900)


def test_nothing_is_reserved_after_the_deadline(tmp_path: Path) -> None:
    purse = _purse(tmp_path, seconds=-1.0)
    with pytest.raises(DeadlineError):
        purse.reserve(1, 1)
    assert purse.remaining().seconds == 0.0


def test_a_slice_spends_from_every_purse_above_it(tmp_path: Path) -> None:
    purse = _purse(tmp_path)
    child = purse.slice(num_calls=8, num_tokens=800)
    grandchild = child.slice(num_calls=100, num_tokens=100_000)
    held = grandchild.reserve(5, 500)
    with pytest.raises(BudgetSpentError):
        grandchild.reserve(4, 1)  # its own limit would allow it, the child's does not
    grandchild.settle(held, Spend(num_calls=5, num_prompt_tokens=400, num_completion_tokens=50))
    assert purse.spent() == child.spent() == grandchild.spent()
    assert purse.remaining().num_tokens == 550
    purse.reserve(4, 10)
    with pytest.raises(BudgetSpentError):
        child.reserve(2, 10)  # the child has 3 calls left, what is above it only one


def test_a_slice_ends_no_later_than_its_purse(tmp_path: Path) -> None:
    purse = _purse(tmp_path, seconds=100.0)
    assert purse.slice(num_calls=1, num_tokens=1, seconds=1000.0).deadline == purse.deadline
    assert purse.slice(num_calls=1, num_tokens=1, seconds=10.0).deadline < purse.deadline


def test_two_questions_in_one_file_have_a_purse_each(tmp_path: Path) -> None:
    first, second = _purse(tmp_path), _purse(tmp_path)
    first.reserve(10, 1000)
    assert second.remaining().num_calls == 10


def _grab(purse: Purse, num_slices: int, barrier, won) -> None:
    mine = purse.slice(num_calls=1000, num_tokens=10**9) if num_slices else purse
    barrier.wait(60)
    for _ in range(40):
        try:
            reservation = mine.reserve(1, 10)
        except BudgetSpentError:
            continue
        mine.settle(reservation, Spend(num_calls=1, num_prompt_tokens=4, num_completion_tokens=6))
        won.put(1)


@pytest.mark.parametrize("num_slices", [0, 1], ids=["one purse", "a slice each"])
def test_processes_that_reserve_at_once_never_overspend(tmp_path: Path, num_slices: int) -> None:
    purse = _purse(tmp_path, num_calls=50, num_tokens=10_000)
    barrier, won = _CONTEXT.Barrier(4), _CONTEXT.Queue()
    processes = [_CONTEXT.Process(target=_grab, args=(purse, num_slices, barrier, won)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert sum(won.get(timeout=10) for _ in range(50)) == 50  # four times forty were wanted
    assert purse.spent() == Spend(num_calls=50, num_prompt_tokens=200, num_completion_tokens=300)
    assert purse.remaining().num_calls == 0


def _reserve_and_die(purse: Purse) -> None:
    purse.reserve(10, 1000)
    os._exit(1)


def test_what_a_dead_process_had_reserved_can_be_reserved_again(tmp_path: Path) -> None:
    purse = _purse(tmp_path)
    process = _CONTEXT.Process(target=_reserve_and_die, args=(purse,))
    process.start()
    process.join(60)
    assert purse.remaining().num_calls == 0
    purse.reserve(1, 10)
    assert purse.remaining().num_calls == 9
