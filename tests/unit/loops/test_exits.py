"""Each published exit rule stops where its formula, computed by hand, says."""

from __future__ import annotations

import math

import pytest
import torch

from model.exits import ExitRequest, Exits, relative_change
from model.halting import HaltingMean
from model.network import KVCache
from model.testing import tiny_config, tiny_network

ROWS = torch.arange(1)


def stops(request, *, states=None, hazards=None, logits=None, num_passes=None):
    """Return the first pass (from 1) after which a single row stops, or None."""
    exits = Exits([request])
    count = num_passes or len(states or hazards or logits)
    for k in range(count):
        before = torch.tensor([states[k - 1]]) if states and k else torch.zeros(1, 2)
        after = torch.tensor([states[k]]) if states else torch.ones(1, 2)
        hazard = torch.tensor([hazards[k]]) if hazards else None
        read_out = (lambda _, k=k: torch.tensor([logits[k]])) if logits else None
        if bool(exits.after_pass(k, ROWS, before, after, hazard, read_out)):
            return k + 1
    return None


@pytest.mark.parametrize(
    ("threshold", "expected"),
    # CDF of hazards 0.1, 0.5, 0.5: 0.1, 0.55, 0.775
    [(0.1, 1), (0.11, 2), (0.55, 2), (0.56, 3), (0.78, None), (1.0, None)],
)
def test_hazard_stops_where_the_cumulative_probability_reaches_the_threshold(threshold, expected):
    assert stops(ExitRequest("hazard", threshold - 1e-6), hazards=[0.1, 0.5, 0.5]) == expected


def test_hazard_threshold_of_one_never_stops_even_where_survival_rounds_to_zero():
    assert stops(ExitRequest("hazard", 1.0), hazards=[1.0, 1.0, 1.0]) is None


def test_hazard_counts_passes_before_min_depth():
    assert stops(ExitRequest("hazard", 0.54, 3), hazards=[0.1, 0.5, 0.0]) == 3


def test_latent_difference_is_measured_against_the_new_state():
    before, after = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]])
    assert relative_change(before, after).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("threshold", "expected"), [(0.6, 2), (0.5, 3), (0.05, 4), (0.0, None)])
def test_latent_stops_below_its_threshold(threshold, expected):
    # relative changes: 1, 0.5, 0.1, 0
    states = [[1.0, 0.0], [2.0, 0.0], [2.0 / 0.9, 0.0], [2.0 / 0.9, 0.0]]
    assert stops(ExitRequest("latent", threshold), states=states) == expected


def test_kl_compares_a_read_out_with_the_one_before():
    half, skewed = [0.0, 0.0], [math.log(3.0), 0.0]
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert stops(ExitRequest("kl", kl + 1e-4), logits=[half, skewed, skewed]) == 2
    assert stops(ExitRequest("kl", kl - 1e-4), logits=[half, skewed, skewed]) == 3
    assert stops(ExitRequest("kl", 0.0), logits=[half, skewed, skewed]) is None


@pytest.mark.parametrize(("threshold", "expected"), [(1, 2), (2, 5), (3, None)])
def test_argmax_stops_after_so_many_passes_with_the_same_token(threshold, expected):
    a, b = [1.0, 0.0], [0.0, 1.0]
    assert stops(ExitRequest("argmax", threshold), logits=[a, a, b, b, b]) == expected


def test_rows_of_a_batch_stop_by_rules_of_their_own():
    requests = [ExitRequest("hazard", 0.5), ExitRequest("latent", 0.5), ExitRequest("kl", 9.0), ExitRequest()]
    exits, rows = Exits(requests), torch.arange(4)
    before, after, hazard = torch.ones(4, 2), 1.1 * torch.ones(4, 2), torch.tensor([0.6, 0.0, 0.0, 1.0])
    first = exits.after_pass(0, rows, before, after, hazard, lambda x: x)
    second = exits.after_pass(1, rows, before, after, hazard, lambda x: x)
    assert first.tolist() == [True, True, False, False]
    assert second.tolist() == [True, True, True, False]


def run_halting(halting, *, threshold, depth, rule="act", min_depth=1):
    """Return each pass's weight in one row's mean, from unit vectors as states, and when it halted."""
    mean = HaltingMean(
        [ExitRequest(rule, threshold, min_depth)], torch.tensor([depth]), torch.zeros(1, depth)
    )
    halted = None
    for k in range(depth):
        state = torch.nn.functional.one_hot(torch.tensor([k]), depth).float()
        _, halts = mean.add(k, ROWS, torch.zeros(1, depth), state, torch.tensor([halting[k]]))
        halted = k + 1 if bool(halts) else halted
    return mean.sum_TD[0].tolist(), halted


@pytest.mark.parametrize(
    ("halting", "settings", "weights", "halted"),
    [
        ([0.3, 0.4, 0.5, 0.9], {"threshold": 0.99}, [0.3, 0.4, 0.3, 0.0], 3),
        ([0.3, 0.4, 0.1, 0.1], {"threshold": 0.99}, [0.3, 0.4, 0.1, 0.2], 4),
        ([1.0, 0.4, 0.1, 0.1], {"threshold": 0.99}, [1.0, 0.0, 0.0, 0.0], 1),
        ([0.7, 0.7, 0.7, 0.7], {"threshold": 1.0}, [0.7, 0.3, 0.0, 0.0], 4),
        ([0.7, 0.7, 0.7, 0.7], {"threshold": 0.5, "rule": "none"}, [0.7, 0.3, 0.0, 0.0], 4),
        ([0.9, 0.9, 0.9, 0.9], {"threshold": 0.5, "min_depth": 3}, [0.9, 0.1, 0.0, 0.0], 3),
    ],
)
def test_halting_weights_are_positive_and_add_up_to_one(halting, settings, weights, halted):
    found, when = run_halting(halting, depth=4, **settings)
    assert found == pytest.approx(weights)
    assert sum(found) == pytest.approx(1.0)
    assert when == halted


def test_row_that_has_halted_keeps_its_state():
    mean = HaltingMean([ExitRequest("act", 0.5)], torch.tensor([3]), torch.zeros(1, 2))
    first, _ = mean.add(0, ROWS, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([0.6]))
    second, halts = mean.add(1, ROWS, first, 5 * torch.ones(1, 2), torch.tensor([0.6]))
    assert torch.equal(second, first)
    assert not halts.any()


def test_later_deeper_token_finds_the_keys_of_one_that_left_early():
    # Without them the deeper token would attend to itself alone in the deeper passes.
    network = tiny_network(tiny_config("ouro", kv_policy="last_exited", exit_rule="none"))
    cache, ids = KVCache(4), torch.tensor([3, 77, 140, 9])
    network(ids[:3], depth=4, exit_request=ExitRequest("hazard", 0.0), cache=cache)
    network(ids[3:], depth=4, exit_request=ExitRequest(), cache=cache)
    for layer in range(2):
        first = cache.slots[layer, 0]
        for slot in range(1, 4):
            assert torch.equal(cache.slots[layer, slot].keys_SHK[:3], first.keys_SHK[:3])
            assert not torch.equal(cache.slots[layer, slot].keys_SHK[3], first.keys_SHK[3])


def test_exit_histogram_follows_the_threshold():
    network = tiny_network(tiny_config("ouro"))
    ids = torch.randint(259, (40,), generator=torch.Generator().manual_seed(0))
    means = [
        network(ids, depth=4, exit_request=ExitRequest("hazard", q)).depth_T.float().mean().item()
        for q in (0.3, 0.6, 0.9, 1.0)
    ]
    assert means == sorted(means)
    assert means[0] < 2 < means[2] < means[3] == 4
