"""Statistics are checked against hand-computed values and brute-force enumeration."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os

import pytest

from pipeline.exceptions import InputError
from pipeline.stats import (
    mcnemar,
    mean,
    paired_difference,
    proportion,
    ratio,
    recall_at_k,
    solved_at_k,
    solved_in_first,
)

if importlib.util.find_spec("scipy") is None and os.environ.get("CI") != "true":
    pytest.skip("scipy is not installed: `make setup` installs it", allow_module_level=True)


def test_the_unbiased_estimator_is_the_share_of_all_draws_that_hold_a_resolving_draft():
    for n, c in itertools.product(range(1, 8), range(8)):
        if c > n:
            continue
        drafts = [i < c for i in range(n)]
        for k in range(1, n + 1):
            draws = list(itertools.combinations(drafts, k))
            assert solved_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_the_unbiased_estimator_is_the_mean_of_the_plain_one_over_all_orders():
    orders = list(itertools.permutations([True, True, False, False, False]))
    for k in range(1, 6):
        plain = sum(solved_in_first(order, k) for order in orders) / len(orders)
        assert solved_at_k(5, 2, k) == pytest.approx(plain)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_the_unbiased_estimator_refuses_what_it_is_not_defined_for(n, c, k):
    with pytest.raises(InputError, match="not defined"):
        solved_at_k(n, c, k)


def test_the_plain_definition_looks_at_the_first_k_drafts_and_needs_no_more():
    resolves = [False, False, True]
    assert [solved_in_first(resolves, k) for k in (1, 2, 3, 32)] == [False, False, True, True]
    assert not solved_in_first([], 8)


def test_recall_counts_a_place_that_was_not_found_as_missed():
    assert recall_at_k([1, 3, None, 10, 4], 3) == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (0, 5, 2 / 32),  # both tails of a fair coin thrown five times
        (1, 7, 2 * (1 + 8) / 256),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_mcnemar_is_the_exact_binomial_test_on_the_tasks_that_differ(b, c, p):
    assert mcnemar(b, c) == pytest.approx(p)
    assert mcnemar(c, b) == pytest.approx(p)


def test_a_bootstrap_interval_is_that_of_every_possible_resample():
    values = [0.0, 0.0, 1.0, 1.0]
    every = sorted(sum(draw) / 4 for draw in itertools.product(values, repeat=4))
    found = mean(values)
    assert (found.value, found.num) == (0.5, 4)
    assert found.low == every[int(0.025 * len(every))] == 0.0
    assert found.high == every[int(0.975 * len(every))] == 1.0


def test_a_bootstrap_interval_has_the_width_that_theory_gives():
    values = [float(i % 2) for i in range(400)]
    found = mean(values)
    half_width = 1.96 * 0.5 / math.sqrt(400)
    assert found.low == pytest.approx(0.5 - half_width, abs=0.004)
    assert found.high == pytest.approx(0.5 + half_width, abs=0.004)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = [i * 0.37 % 1 for i in range(40)]
    assert mean(values, seed=3) == mean(values, seed=3)
    assert mean(values, seed=3) != mean(values, seed=4)


def test_tasks_that_agree_and_tasks_that_are_too_few_have_no_spread_to_show():
    assert mean([1.0, 1.0, 1.0]).low == mean([1.0, 1.0, 1.0]).high == 1.0
    one = mean([2.0])
    assert (one.value, one.num) == (2.0, 1)
    assert math.isnan(one.low)
    assert math.isnan(mean([]).value)


def test_a_paired_difference_is_taken_task_by_task():
    first, second = [0.0, 10.0, 20.0, 30.0], [1.0, 11.0, 21.0, 31.0]
    found = paired_difference(first, second)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)  # unpaired it would span -15 to 17
    with pytest.raises(InputError, match="no pairs"):
        paired_difference([1.0], [1.0, 2.0])


def test_a_ratio_is_a_sum_over_a_sum_and_its_resamples_keep_the_pairs():
    tokens, solved = [100.0, 300.0, 200.0], [1.0, 0.0, 1.0]
    found = ratio(tokens, solved)
    every = []
    for draw in itertools.product(range(3), repeat=3):
        top, bottom = sum(tokens[i] for i in draw), sum(solved[i] for i in draw)
        every.append(top / bottom if bottom else math.inf)
    assert found.value == 300.0
    assert min(every) == 100.0 <= found.low < found.value < found.high
    assert found.high in every
    assert math.isinf(found.high)  # one draw of 27 has no solved task: 3.7 %, more than the upper 2.5 %


def test_a_ratio_without_a_solved_task_is_infinite():
    found = ratio([5.0, 6.0], [0.0, 0.0])
    assert math.isinf(found.value)
    assert math.isnan(found.low)


def test_none_out_of_few_is_no_certainty():
    found = proportion(0, 8)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 8))  # what Clopper and Pearson say of none
    assert math.isnan(proportion(0, 0).value)
