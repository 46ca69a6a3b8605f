"""T7: what training makes of a loop, on toys trained here in seconds from fixed seeds.

Asserted: passes pay up to the trained depth and cost beyond it; damped steps of a dense model's middle are
harmless where plain ones, and damped ones of all layers, are not; a diagonal injection holds the state.
Not asserted: any gain of a training-free loop, path independence, grokking; toys this small show none.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from model.checkpoints.loading import load_network
from model.network import LoopedNetwork
from model.testing import make_tiny_qwen2, tiny_config, tiny_network

NUM_TOKENS = 64


def text_of(seed, num_bytes):
    draw, text = random.Random(seed), b""
    names = ["item", "count", "total", "left", "right"]
    while len(text) < num_bytes:
        a, b, c = (draw.choice(names) for _ in range(3))
        text += f"def {a}_{b}({a}, {b}):\n    {c} = {a} {draw.choice('+-*')} {b}\n    return {c}\n\n".encode()
    return torch.tensor(list(text[:num_bytes]))


def batches(num_steps, size, num_tokens):
    data, generator = text_of(0, 60_000), torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        starts = torch.randint(len(data) - num_tokens, (size,), generator=generator)
        yield torch.stack([data[i : i + num_tokens] for i in starts])


def loss_of(network, depth):
    held_out = text_of(1, 8 * NUM_TOKENS).view(8, NUM_TOKENS)
    with torch.no_grad():
        losses = [cross_entropy(network(one[:-1], depth=depth).logits_TV, one[1:]).item() for one in held_out]
    return sum(losses) / len(losses)


def redraw(network, std):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, std)


class States:
    """Keeps the state after each pass, with its gradient."""

    def __init__(self):
        self.after = []

    def start(self, _state_TD):
        pass

    def layer(self, *_):
        pass

    def loop(self, _pass_index, _rows_A, _before_AD, after_AD):
        self.after.append(after_AD)


def test_passes_pay_up_to_the_trained_depth_and_cost_beyond_it():
    config = tiny_config("ouro", recurrence_depth=3, max_recurrence_depth=8, exit_rule="none")
    network = tiny_network(config).requires_grad_(True)
    redraw(network, 0.05)
    num_steps = 150
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for step, (tokens,) in enumerate(batches(num_steps, 1, 2 * NUM_TOKENS)):
        seen = States()
        network(tokens[:-1], depth=3, recorder=seen)
        read_outs = [network.logits(network.parts.read_out(state)) for state in seen.after]
        loss = sum(cross_entropy(logits, tokens[1:]) for logits in read_outs) / 3  # each pass is supervised
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.param_groups[0]["lr"] = 5e-3 * (1 - step / num_steps)
    loss = {depth: loss_of(network, depth) for depth in (1, 2, 3, 6, 8)}
    assert loss[2] < loss[1]
    assert loss[3] < loss[1]
    assert loss[8] > loss[6] > 1.2 * loss[3]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Return a small trained dense model of 8 layers, read as a training-free one."""
    from transformers import AutoModelForCausalLM

    folder = make_tiny_qwen2(tmp_path_factory.mktemp("dense"), num_layers=8)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    redraw(network, 0.05)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for tokens in batches(100, 12, NUM_TOKENS):
        loss = network(input_ids=tokens, labels=tokens).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.save_pretrained(folder)
    return load_network(folder)


def rise(dense, window, rule, depth=3):
    """Return by how much the loss rises when a window is looped."""
    start, stop = window
    config = replace(
        dense.config,
        num_prelude_layers=start,
        num_core_layers=stop - start,
        num_coda_layers=8 - stop,
        step_rule=rule,
    )
    network = LoopedNetwork(config)
    network.load_state_dict(dense.state_dict())
    return loss_of(network, depth) - loss_of(dense, 1)


def test_plain_passes_over_a_dense_models_middle_cost_many_times_what_damped_ones_do(dense):
    assert loss_of(dense, 1) < 1.0, "the toy has learned nothing"
    assert rise(dense, (2, 6), "plain") > 5 * max(rise(dense, (2, 6), "damped"), 0.001)


def test_looping_all_layers_costs_many_times_what_looping_the_middle_does(dense):
    assert rise(dense, (0, 8), "damped") > 5 * max(rise(dense, (2, 6), "damped"), 0.001)


def norms_of_states(injection):
    config = tiny_config("parcae", injection=injection, max_recurrence_depth=32)
    seen = States()
    network = tiny_network(config)
    network(text_of(0, 12), depth=32, recorder=seen)
    return network, [float(state.norm()) for state in seen.after]


def test_diagonal_injection_holds_the_state_that_addition_lets_grow():
    network, diagonal = norms_of_states("diagonal")
    _, added = norms_of_states("add")
    assert network.parts.injection.decay().max() < 1
    assert diagonal[31] < 1.5 * diagonal[7]
    assert added[31] > 2.5 * added[7]
