"""Training-free loops: what the published recipe promises, and what only its consistent variants keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.network import KVCache
from model.testing import tiny_config, tiny_network

IDS = torch.tensor([5, 9, 100, 33, 7, 200, 61, 18, 90, 41])
RECIPES = {
    "published": {"kv_policy": "single_restored"},
    "a slot for each pass": {"kv_policy": "depth_indexed"},
    "keys of the first pass": {"later_attention": "shared"},
}
CONSISTENT = [name for name in RECIPES if name != "published"]


def network_of(recipe, **changes):
    return tiny_network(tiny_config("training-free", **RECIPES[recipe], **changes))


def in_pieces(network, lengths, depth):
    cache, start, pieces = KVCache(len(IDS)), 0, []
    for length in lengths:
        pieces.append(network(IDS[start : start + length], depth=depth, cache=cache).logits_TV)
        start += length
    return torch.cat(pieces)


def after_prefix_hit(network, depth):
    """Compute another continuation of the first tokens first, and go on from its cache."""
    cache = KVCache(len(IDS))
    other = torch.cat([IDS[:6], torch.tensor([1, 2, 3])])
    network(other, depth=depth, cache=cache)
    cache.num_tokens = 6
    for slot in cache.slots.values():
        slot.is_present_S[6:] = False
    return network(IDS[6:], depth=depth, cache=cache).logits_TV[-1]


def after_preemption(network, depth):
    """Decode four tokens one by one, lose the cache, and compute everything in one prefill."""
    cache = KVCache(len(IDS))
    network(IDS[:6], depth=depth, cache=cache)
    for token in IDS[6:9]:
        network(token[None], depth=depth, cache=cache)
    uninterrupted = network(IDS[9:], depth=depth, cache=cache).logits_TV[-1]
    return uninterrupted, network(IDS, depth=depth).logits_TV[-1]


def differences(network, depth):
    """Return by how much each way to the last token's logits differs from one prefill of the whole."""
    whole = network(IDS, depth=depth).logits_TV
    uninterrupted, recomputed = after_preemption(network, depth)
    found = {
        "chunked prefill": in_pieces(network, [4, 3, 3], depth)[-1] - whole[-1],
        "decode": in_pieces(network, [6, 1, 1, 1, 1], depth)[-1] - whole[-1],
        "prefix hit": after_prefix_hit(network, depth) - whole[-1],
        "preemption": uninterrupted - recomputed,
    }
    return {way: float(one.abs().max()) for way, one in found.items()}


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("recipe", CONSISTENT)
def test_consistent_recipe_is_one_function_however_a_prompt_is_served(recipe, depth):
    for way, difference in differences(network_of(recipe), depth).items():
        assert difference < 1e-4, way


@pytest.mark.parametrize("depth", [2, 4])
def test_published_recipe_answers_differently_under_chunks_decode_prefix_hits_and_preemption(depth):
    for way, difference in differences(network_of("published"), depth).items():
        assert difference > 0.05, way


@pytest.mark.parametrize("order", ["model", "layer"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_depth_one_is_the_plain_model_bit_for_bit(recipe, order):
    network = network_of(recipe, loop_order=order)
    plain = tiny_network(replace(network.config, step_rule="plain", max_recurrence_depth=1))
    assert torch.equal(network(IDS, depth=1).logits_TV, plain(IDS, depth=1).logits_TV)


@pytest.mark.parametrize("order", ["model", "layer"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_full_anchor_is_the_plain_model_at_any_depth_token_for_token(recipe, order):
    network = network_of(recipe, loop_order=order, anchor_weight=1.0)
    prompt = IDS.tolist()
    plain = network.greedy(prompt, 12, depth=1)
    for depth in (2, 3, 4):
        assert network.greedy(prompt, 12, depth=depth) == plain


def test_published_recipe_leaves_the_keys_that_the_plain_model_leaves_in_the_window():
    network = network_of("published")
    looped, plain = KVCache(len(IDS)), KVCache(len(IDS))
    for cache, depth in ((looped, 4), (plain, 1)):
        for piece in (IDS[:5], IDS[5:6], IDS[6:]):
            network(piece, depth=depth, cache=cache)
    for layer in (0, 1, 2):
        torch.testing.assert_close(looped.slots[layer, 0].keys_SHK, plain.slots[layer, 0].keys_SHK)
        torch.testing.assert_close(looped.slots[layer, 0].values_SHK, plain.slots[layer, 0].values_SHK)
    assert {slot for layer, slot in looped.slots} == {0}


def gentle(network):
    """Return it with layers that move the state a little, as a trained model's do."""
    with torch.no_grad():
        for layer in network.layers:
            layer.self_attn.o_proj.weight *= 0.3
            layer.mlp.down_proj.weight *= 0.3
    return network


@pytest.mark.parametrize("recipe", RECIPES)
def test_finer_steps_converge_with_one_over_their_number(recipe):
    network = gentle(network_of(recipe, step_rule="damped", max_recurrence_depth=64))
    hidden = {depth: network(IDS, depth=depth).hidden_TD for depth in (8, 16, 32, 64)}
    gaps = [float((hidden[k] - hidden[2 * k]).norm()) for k in (8, 16, 32)]
    assert 1.8 < gaps[0] / gaps[1] < 2.2
    assert 1.8 < gaps[1] / gaps[2] < 2.2


def test_layer_mode_is_another_function_than_block_mode():
    block, layer = network_of("published"), network_of("published", loop_order="layer")
    assert (block(IDS, depth=3).logits_TV - layer(IDS, depth=3).logits_TV).abs().max() > 0.01
