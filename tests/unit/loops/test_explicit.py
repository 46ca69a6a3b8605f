"""Families without released weights compute what their papers say: each restated as a loop of its own, which
shares nothing with the network but the weights.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from model.exits import ExitRequest
from model.testing import tiny_config, tiny_network

IDS = torch.tensor([5, 9, 100, 33, 7, 200, 61, 18])
NUM_HEADS, HEAD = 2, 32


def weights_of(network):
    return dict(network.named_parameters())


def heads(x_TD):
    return x_TD.view(len(x_TD), x_TD.shape[1] // HEAD, HEAD).transpose(0, 1)  # H T K


def softmax_attention(q_HTK, k_HTK, v_HTK, seen_TT):
    scores = (q_HTK @ k_HTK.transpose(1, 2)) / math.sqrt(HEAD)
    return scores.masked_fill(~seen_TT, -torch.inf).softmax(-1) @ v_HTK


def causal(num_tokens):
    return torch.ones(num_tokens, num_tokens).tril().bool()


def rope(x_HTK, positions, fraction=1.0, theta=10_000.0):
    """Turn by complex multiplication, where the network turns by sines and cosines."""
    width = int(HEAD * fraction)
    half = width // 2
    turn = torch.polar(torch.ones(1), positions[:, None] * theta ** (-torch.arange(half) * 2.0 / width))
    z = torch.complex(x_HTK[..., :half], x_HTK[..., half:width]) * turn
    return torch.cat([z.real, z.imag, x_HTK[..., width:]], -1)


def rms(x, weight):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def llama_layer(w, layer, x, positions, seen, keys_of=None):
    """Return the layer's output and its keys and values; `keys_of` replaces them."""
    p = f"layers.{layer}."
    n = rms(x, w[p + "input_layernorm.weight"])
    q, k, v = (heads(n @ w[f"{p}self_attn.{c}_proj.weight"].T) for c in "qkv")
    q, k = rope(q, positions), rope(k, positions)
    k, v = keys_of or (k, v)
    out = softmax_attention(q, k, v, seen).transpose(0, 1).flatten(1)
    x = x + out @ w[p + "self_attn.o_proj.weight"].T
    n = rms(x, w[p + "post_attention_layernorm.weight"])
    up = functional.silu(n @ w[p + "mlp.gate_proj.weight"].T) * (n @ w[p + "mlp.up_proj.weight"].T)
    return x + up @ w[p + "mlp.down_proj.weight"].T, (k, v)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("threshold", [0.6, 0.99, 1.0])
def test_universal_transformer_encodes_each_pass_and_halts_by_act(threshold):
    network = tiny_network(tiny_config("universal-transformer"))
    w, depth, width = weights_of(network), 4, 64
    p = "layers.0."

    def layer_norm(x, name):
        return functional.layer_norm(x, (width,), w[f"{p}{name}.weight"], w[f"{p}{name}.bias"], 1e-6)

    h = w["embed_tokens.weight"][IDS] * math.sqrt(width)
    total, mean = [0.0] * len(IDS), torch.zeros_like(h)
    halted_at = [None] * len(IDS)
    for t in range(1, depth + 1):
        coding = torch.zeros_like(h)
        for i in range(len(IDS)):
            for j in range(0, width, 2):
                rate = 10_000 ** (j / width)
                coding[i, j] = math.sin(i / rate) + math.sin(t / rate)
                coding[i, j + 1] = math.cos(i / rate) + math.cos(t / rate)
        x = h + coding
        q, k, v = (heads(x @ w[f"{p}self_attn.{c}_proj.weight"].T) for c in "qkv")
        out = softmax_attention(q, k, v, causal(len(IDS))).transpose(0, 1).flatten(1)
        a = layer_norm(x + out @ w[p + "self_attn.o_proj.weight"].T, "input_layernorm_2")
        inner = torch.relu(a @ w[p + "mlp.up_proj.weight"].T + w[p + "mlp.up_proj.bias"])
        moved = a + inner @ w[p + "mlp.down_proj.weight"].T + w[p + "mlp.down_proj.bias"]
        moved = layer_norm(moved, "post_attention_layernorm_2")
        chance = torch.sigmoid(moved @ w["parts.gate.weight"][0] + w["parts.gate.bias"]).tolist()
        for i in range(len(IDS)):
            if halted_at[i]:
                continue
            h[i] = moved[i]
            reaches = threshold < 1 and total[i] + chance[i] >= threshold
            weight = 1 - total[i] if reaches or t == depth else min(chance[i], 1 - total[i])
            halted_at[i] = t if reaches or t == depth else None
            mean[i] += weight * moved[i]
            total[i] += weight
    out = network(IDS, depth=depth, exit_request=ExitRequest("act", threshold))
    assert out.depth_T.tolist() == halted_at
    assert_close(out.logits_TV, mean @ w["lm_head.weight"].T)


def test_moeut_repeats_its_group_with_sigmoid_experts_and_unnormed_values():
    network = tiny_network(tiny_config("moeut"))
    w, positions = weights_of(network), torch.arange(len(IDS)).float()

    def layer_norm(x, name):
        return functional.layer_norm(x, (64,), w[name + ".weight"], w[name + ".bias"], 1e-6)

    def mixture(scores_E, num_chosen, of_expert):
        chosen = sorted(range(len(scores_E)), key=lambda e: -float(scores_E[e]))[:num_chosen]
        return sum(scores_E[e] * of_expert(e) for e in chosen)

    x = w["embed_tokens.weight"][IDS]
    for layer in [0, 1] * 3:
        p = f"layers.{layer}."
        a, raw = layer_norm(x, p + "input_layernorm"), x
        q, k = (heads(a @ w[f"{p}self_attn.{c}_proj.weight"].T) for c in "qk")
        q, k = rope(q, positions, 0.5), rope(k, positions, 0.5)
        value_scores = torch.sigmoid(a @ w[p + "self_attn.v_experts.router.weight"].T).view(len(x), 1, 3)
        value_experts, out_experts = (
            w[p + "self_attn.v_experts.experts"],
            w[p + "self_attn.o_experts.experts"],
        )
        v = torch.stack(
            [
                mixture(value_scores[i, 0], 2, lambda e, i=i, r=raw, m=value_experts: r[i] @ m[0, e])
                for i in range(len(x))
            ]
        )[None]
        out = softmax_attention(q, k, v, causal(len(x)))
        out_scores = torch.sigmoid(a @ w[p + "self_attn.o_experts.router.weight"].T).view(len(x), 2, 3)
        x = raw + torch.stack(
            [
                sum(
                    mixture(out_scores[i, h], 2, lambda e, i=i, h=h, o=out, m=out_experts: o[h, i] @ m[h, e])
                    for h in range(NUM_HEADS)
                )
                for i in range(len(x))
            ]
        )
        b = layer_norm(x, p + "post_attention_layernorm")
        scores = torch.sigmoid(b @ w[p + "mlp.router.weight"].T)
        inner, outer = w[p + "mlp.keys"], w[p + "mlp.values"]
        x = x + torch.stack(
            [
                mixture(scores[i], 2, lambda e, i=i, r=x, m=inner, o=outer: torch.relu(r[i] @ m[e]) @ o[e])
                for i in range(len(x))
            ]
        )
    expected = layer_norm(x, "parts.final_norm") @ w["lm_head.weight"].T
    assert_close(network(IDS, depth=3).logits_TV, expected)


def finish_llama(w, x, layer, positions):
    x, _ = llama_layer(w, layer, x, positions, causal(len(x)))
    return rms(x, w["parts.final_norm.weight"]) @ w["lm_head.weight"].T


def test_mor_with_expert_choice_goes_on_with_the_tokens_that_its_routers_chose():
    ids = torch.randint(259, (24,), generator=torch.Generator().manual_seed(1))
    network = tiny_network(tiny_config("mor"))
    w, positions = weights_of(network), torch.arange(len(ids)).float()
    x, _ = llama_layer(w, 0, w["embed_tokens.weight"][ids], positions, causal(len(ids)))
    chosen, depths = list(range(len(ids))), [0] * len(ids)
    for recursion in range(3):
        score = torch.sigmoid(x @ w[f"parts.routers.{recursion}.weight"][0])
        if recursion:  # the first recursion's capacity is 1; later ones choose inside the previous selection
            chosen = [i for i in chosen if score[i] >= 0.5]
        picked = x[chosen]
        for layer in (1, 2):
            picked, _ = llama_layer(w, layer, picked, positions[chosen], causal(len(chosen)))
        x = x.index_add(0, torch.tensor(chosen, dtype=torch.long), 0.1 * score[chosen, None] * picked)
        for i in chosen:
            depths[i] = recursion + 1
    out = network(ids, depth=3)
    assert out.depth_T.tolist() == depths
    assert set(depths) == {1, 2, 3}, "the routers of this seed choose nothing worth a test"
    assert_close(out.logits_TV, finish_llama(w, x, 3, positions))


def test_mor_with_token_choice_adds_each_tokens_last_state_to_its_input():
    network = tiny_network(tiny_config("mor", gate="token_choice", router_scale=1.0))
    w, positions = weights_of(network), torch.arange(len(IDS)).float()
    start, _ = llama_layer(w, 0, w["embed_tokens.weight"][IDS], positions, causal(len(IDS)))
    chances = (start @ w["parts.router.weight"].T).softmax(-1)
    weight, choice = chances.max(-1)
    x, final = start.clone(), start.clone()
    for recursion in range(3):
        active = [i for i in range(len(IDS)) if choice[i] >= recursion]
        picked = x[active]
        for layer in (1, 2):
            picked, _ = llama_layer(w, layer, picked, positions[active], causal(len(active)))
        for place, i in enumerate(active):
            x[i] = picked[place]
            if choice[i] == recursion:
                final[i] += weight[i] * picked[place]
    out = network(IDS, depth=3)
    assert out.depth_T.tolist() == (choice + 1).tolist()
    assert len(set(choice.tolist())) > 1, "the router of this seed chooses nothing worth a test"
    assert_close(out.logits_TV, finish_llama(w, final, 3, positions))


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("later_attention", ["own", "shared"])
@pytest.mark.parametrize("anchor", [None, 0.0, 0.3, 1.0])
def test_training_free_steps_are_damped_and_pulled_towards_the_plain_pass(depth, later_attention, anchor):
    rule = (
        {"step_rule": "damped"}
        if anchor is None
        else {"step_rule": "damped_anchored", "anchor_weight": anchor}
    )
    network = tiny_network(tiny_config("training-free", later_attention=later_attention, **rule))
    w, positions, seen = weights_of(network), torch.arange(len(IDS)).float(), causal(len(IDS))
    x, _ = llama_layer(w, 0, w["embed_tokens.weight"][IDS], positions, seen)
    first_keys = {}

    def window(x):
        for layer in (1, 2):
            keys_of = first_keys.get(layer) if later_attention == "shared" else None
            x, keys = llama_layer(w, layer, x, positions, seen, keys_of)
            first_keys.setdefault(layer, keys)
        return x

    plain = window(x)
    for k in range(depth):
        moved = plain if k == 0 else window(x)
        x = x + (moved - x) / depth
    beta = anchor or 0.0
    assert_close(
        network(IDS, depth=depth).logits_TV, finish_llama(w, beta * plain + (1 - beta) * x, 3, positions)
    )


def test_training_free_in_layer_mode_finishes_a_layer_before_the_next():
    network = tiny_network(tiny_config("training-free", loop_order="layer"))
    w, positions, seen = weights_of(network), torch.arange(len(IDS)).float(), causal(len(IDS))
    x, _ = llama_layer(w, 0, w["embed_tokens.weight"][IDS], positions, seen)
    for layer in (1, 2):
        plain, _ = llama_layer(w, layer, x, positions, seen)
        for _ in range(3):
            x = x + (llama_layer(w, layer, x, positions, seen)[0] - x) / 3
        x = 0.5 * plain + 0.5 * x
    assert_close(network(IDS, depth=3).logits_TV, finish_llama(w, x, 3, positions))
