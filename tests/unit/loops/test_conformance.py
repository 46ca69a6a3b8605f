"""Every family keeps what the conformance suite demands, and the suite notices who does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.checkpoints.loading import load_network, save_checkpoint
from model.families import PRESETS
from model.testing import tiny_config, tiny_network
from model.testing.conformance import CHECKS, conformance, depth_one_is_plain, reloaded_is_same
from model.testing.network_under_test import NetworkUnderTest

VARIANTS = {
    "exits that leave": ("ouro", {"kv_policy": "last_exited"}),
    "one slot": ("ouro", {"kv_policy": "single"}),
    "two slots": ("nanbeige", {"kv_policy": "first_then_shared"}),
    "keys of the first pass": ("retrofit", {"later_attention": "shared"}),
    "a depth for each token": ("mor", {"gate": "token_choice", "router_scale": 1.0}),
    "published training-free": ("training-free", {"kv_policy": "single_restored"}),
    "training-free, first keys": ("training-free", {"later_attention": "shared"}),
    "training-free, layer by layer": ("training-free", {"loop_order": "layer"}),
    "plain steps of a window": ("training-free", {"step_rule": "plain"}),
    "added input": ("huginn", {"injection": "add", "state_init": "zeros"}),
}


def under_test(family, **changes):
    return NetworkUnderTest(tiny_network(tiny_config(family, **changes)))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", PRESETS)
def test_family_keeps_what_the_suite_demands(family, check):
    CHECKS[check](under_test(family), 1e-4)


@pytest.mark.parametrize(("family", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_variants_of_families_keep_it_too(family, changes):
    conformance(under_test(family, **changes))


@pytest.mark.parametrize("kv_policy", ["single", "single_restored", "first_then_shared"])
def test_shared_slots_depend_on_where_chunks_end_and_the_suite_says_how_much(kv_policy):
    found = CHECKS["T3"](under_test("nanbeige", kv_policy=kv_policy), 1e-4)
    assert found.difference > 0.1


@pytest.mark.parametrize("family", ["ouro", "nanbeige", "iquest-loop", "moeut", "universal-transformer"])
def test_depths_of_families_without_a_coda_nest(family):
    model = under_test(family)
    assert model.claims.is_depth_nested
    assert CHECKS["T9"](model, 1e-4).difference < 1e-4


@pytest.mark.parametrize("family", ["huginn", "parcae", "retrofit", "training-free", "mor"])
def test_depths_of_families_with_a_coda_do_not_nest(family):
    model = under_test(family)
    assert not model.claims.is_depth_nested
    assert CHECKS["T9"](model, 1e-4).difference > 1e-3


def test_depths_of_huginns_core_would_nest_without_its_coda():
    model = under_test("huginn", num_coda_layers=0)
    assert CHECKS["T9"](model, 1e-4).difference < 1e-4


@pytest.mark.parametrize("family", PRESETS)
def test_saved_and_loaded_again_a_family_is_the_same_function(family, tmp_path):
    model = under_test(family)
    save_checkpoint(model.network, tmp_path / "checkpoint")
    reloaded_is_same(model, NetworkUnderTest(load_network(tmp_path / "checkpoint")))


class Wrong(NetworkUnderTest):
    """A network whose claims or behaviour a test changes."""

    def __init__(self, network, **claims):
        super().__init__(network)
        self.claims = replace(self.claims, **claims)


@pytest.mark.parametrize(
    ("check", "family", "changes", "claims"),
    [
        ("T2", "ouro", {"kv_policy": "single"}, {"is_chunk_invariant": True}),
        ("T3", "ouro", {"kv_policy": "single"}, {"is_chunk_invariant": True}),
        ("T3", "ouro", {}, {"is_chunk_invariant": False}),
        ("T6", "huginn", {}, {"exit_rules": ("latent", "latent"), "min_exit_depth": 2}),
        ("T8", "nanbeige", {"kv_policy": "single"}, {"is_chunk_invariant": True}),
        ("T9", "huginn", {}, {"is_depth_nested": True}),
        ("T9", "ouro", {}, {"is_depth_nested": False}),
    ],
)
def test_suite_names_the_check_that_a_wrong_claim_breaks(check, family, changes, claims):
    model = Wrong(tiny_network(tiny_config(family, **changes)), **claims)
    with pytest.raises(AssertionError, match=f"^{check}: "):
        CHECKS[check](model, 1e-4)


def test_suite_notices_rows_that_see_their_neighbours():
    class Leaking(NetworkUnderTest):
        def batch(self, prompts, depths):
            return super().batch(prompts, [max(depths)] * len(depths))

    with pytest.raises(AssertionError, match=r"^T4: a row of depth 1 among others differs by"):
        CHECKS["T4"](Leaking(tiny_network(tiny_config("nanbeige"))), 1e-4)


def test_suite_notices_a_first_pass_that_is_not_the_plain_network():
    class Scaled(NetworkUnderTest):
        def plain(self, token_ids):
            return 1.01 * super().plain(token_ids)

    with pytest.raises(AssertionError, match=r"^T1: depth 1 is not the unlooped network"):
        depth_one_is_plain(Scaled(tiny_network(tiny_config("nanbeige"))))


def test_suite_notices_a_reloaded_network_with_one_other_weight():
    model, other = under_test("ouro"), under_test("ouro")
    with torch.no_grad():
        other.network.layers[0].mlp.up_proj.weight[0, 0] += 0.1
    with pytest.raises(AssertionError, match=r"^T5: reloaded, depth 1 differs"):
        reloaded_is_same(model, other)
