"""The numbers of an inspection are what one computes by hand, and its page shows them and fetches nothing."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from model.exceptions import LoopConfigError
from model.exits import ExitRequest
from model.families import PRESETS
from model.inspection import inspect_network, render_page
from model.inspection.trajectory import classify, trajectories
from model.network import KVCache
from model.testing import tiny_config, tiny_network

IDS = [5, 9, 100, 33, 7, 200]


def loops_by_hand(network, depth):
    """Run nanbeige's loops block by block; return states, and each layer's outputs and attention by loop."""
    cache, positions = KVCache(len(IDS)), torch.arange(len(IDS))
    x = network.embed_tokens(torch.tensor(IDS))
    states, outputs, attention = [x], {}, {}
    for t in range(depth):
        for layer in (0, 1):
            x, attention[t, layer] = network.layers[layer](x, positions, t, cache)
            outputs[t, layer] = x
        x = network.parts.final_norm(x)
        states.append(x)
    return states, outputs, attention


@pytest.fixture(scope="module")
def nanbeige():
    return tiny_network(tiny_config("nanbeige"))


@pytest.fixture(scope="module")
def seen(nanbeige):
    return inspect_network(nanbeige, IDS, depth=3)


def test_layer_numbers_are_those_of_the_blocks(nanbeige, seen):
    states, outputs, attention = loops_by_hand(nanbeige, 3)
    assert len(seen.layers) == 6
    for cell in seen.layers:
        t, layer = cell.loop - 1, cell.layer
        out = outputs[t, layer]
        source = states[t] if layer == 0 else outputs[t, 0]
        assert cell.update_norm == pytest.approx(float((out - source).norm(dim=1).mean()), rel=1e-4)
        assert cell.hidden_rms == pytest.approx(float(out.pow(2).mean(1).sqrt().mean()), rel=1e-4)
        if t == 0:
            assert cell.relative_change is cell.cosine is cell.attention_change is None
            continue
        before = outputs[t - 1, layer]
        change = ((out - before).norm(dim=1) / out.norm(dim=1)).mean()
        cosine = ((out * before).sum(1) / out.norm(dim=1) / before.norm(dim=1)).mean()
        moved = (attention[t, layer] - attention[t - 1, layer]).abs().sum(-1).mean() / 2
        assert cell.relative_change == pytest.approx(float(change), rel=1e-4)
        assert cell.cosine == pytest.approx(float(cosine), abs=1e-4)
        assert cell.attention_change == pytest.approx(float(moved), rel=1e-3)


def test_loop_numbers_are_those_of_states_and_read_outs(nanbeige, seen):
    states, _, _ = loops_by_hand(nanbeige, 3)
    logs = [nanbeige.lm_head(state).log_softmax(-1) for state in states[1:]]
    for t, loop in enumerate(seen.loops):
        change = ((states[t + 1] - states[t]).norm(dim=1) / states[t + 1].norm(dim=1)).mean()
        to_go = ((states[t + 1] - states[3]).norm(dim=1) / (states[0] - states[3]).norm(dim=1)).mean()
        assert loop.relative_change == pytest.approx(float(change), rel=1e-4)
        assert loop.distance_to_last == pytest.approx(float(to_go), rel=1e-4, abs=1e-6)
        assert loop.top_token == str(int(logs[t][-1].argmax()))
        to_last = (logs[2].exp() * (logs[2] - logs[t])).sum(1).mean()
        assert loop.kl_to_last == pytest.approx(float(to_last), abs=1e-4)
    between = (logs[1].exp() * (logs[1] - logs[0])).sum(1).mean()
    assert seen.loops[0].kl_to_previous is None
    assert seen.loops[1].kl_to_previous == pytest.approx(float(between), rel=1e-3)


@pytest.mark.parametrize("family", ["huginn", "training-free", "parcae", "ouro"])
def test_last_read_out_is_what_the_model_answers(family):
    network = tiny_network(tiny_config(family))
    depth = network.config.max_recurrence_depth
    answer = network(torch.tensor(IDS), depth=depth, exit_request=ExitRequest()).logits_TV[-1].argmax()
    assert inspect_network(network, IDS, depth=depth).loops[-1].top_token == str(int(answer))


@pytest.mark.parametrize("family", PRESETS)
def test_every_family_can_be_inspected_and_its_numbers_are_json(family):
    network = tiny_network(tiny_config(family))
    found = inspect_network(network, IDS, depth=network.config.max_recurrence_depth)
    text = json.dumps(found.to_json_dict(), allow_nan=False)
    assert json.loads(text)["family"] == family
    assert sum(found.halting.values()) == len(IDS)


def test_halting_histogram_counts_tokens_by_the_loop_that_they_left_after():
    network = tiny_network(tiny_config("ouro"))
    request = ExitRequest("hazard", 0.7)
    found = inspect_network(network, IDS, depth=4, exit_request=request)
    depths = network(torch.tensor(IDS), depth=4, exit_request=request).depth_T.tolist()
    assert found.halting == {loops: depths.count(loops) for loops in sorted(set(depths))}
    assert len(found.loops) == 4  # all loops are measured all the same


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def turned(angle, num_loops, shrink=1.0):
    """Return a path in 5 dimensions that turns round a point away from the origin."""
    points = [np.array([1.0, 0.0])]
    for _ in range(num_loops - 1):
        points.append(shrink * rotation(angle) @ points[-1])
    return np.pad(np.stack(points), ((0, 0), (0, 3)), constant_values=2.0)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (turned(np.pi / 2, 12), ("cycle", 4)),
        (turned(2 * np.pi / 5, 12), ("cycle", 5)),
        (turned(np.pi, 6), ("cycle", 2)),
        (turned(np.pi / 2, 12, shrink=0.4), ("fixed point", None)),
        (turned(np.pi / 2, 7, shrink=0.75), ("converging", None)),
        (np.outer(np.arange(1.0, 9.0), np.ones(4)), ("moving", None)),
        (np.ones((1, 4)), ("moving", None)),
    ],
)
def test_paths_are_called_what_they_are(path, expected):
    assert classify(path) == expected


def test_converging_network_is_at_a_fixed_point_in_every_layer():
    network = tiny_network(tiny_config("parcae", num_coda_layers=0, max_recurrence_depth=24))
    with torch.no_grad():
        for layer in network.layers:
            layer.self_attn.o_proj.weight *= 0.2
            layer.mlp.down_proj.weight *= 0.2
    found = inspect_network(network, IDS, depth=24)
    assert {path.kind for path in found.trajectories} == {"fixed point"}
    assert [loop.stage for loop in found.loops] == sorted(
        (loop.stage for loop in found.loops), key=("early", "middle", "late").index
    )
    assert found.loops[-1].relative_change < 1e-3
    assert found.loops[-1].kl_to_previous < 1e-3


def test_network_that_turns_its_state_is_on_a_cycle():
    config = tiny_config("huginn", num_prelude_layers=0, num_coda_layers=0, max_recurrence_depth=12)
    network = tiny_network(config)
    width = config.block.hidden_size
    with torch.no_grad():
        for layer in network.layers:  # blocks that only norm what the adapter turns
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        quarter = torch.zeros(width, 2 * width)
        for i in range(0, width, 2):
            quarter[i, i + 1], quarter[i + 1, i] = -1.0, 1.0
        network.parts.injection.adapter.weight.copy_(quarter)
        for name, weight in network.named_parameters():
            if "layernorm" in name:
                weight.fill_(1.0)
    found = inspect_network(network, IDS, depth=12)
    assert {(path.kind, path.period) for path in found.trajectories} == {("cycle", 4)}
    assert "cycle of 4 loops" in render_page([found], title="turns")


def test_plane_shows_a_path_that_lies_in_one():
    found, shown = trajectories({0: turned(1.0, 9), 1: turned(1.0, 9) * [2, 2, 1, 1, 1]})
    assert shown == pytest.approx(1.0)
    path = np.array(found[0].points)
    assert np.linalg.norm(path[3] - path[2]) == pytest.approx(2 * np.sin(0.5))


def test_page_fetches_nothing_and_escapes_what_it_shows(nanbeige):
    found = inspect_network(nanbeige, IDS, prompt="<script>alert(1)</script>", decode=lambda _: "<b>")
    page = render_page([found], title="a & b")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "a &amp; b" in page
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page)
    assert page.count("<svg") == 10


def test_loops_of_single_layers_are_not_inspected_as_if_they_were_passes():
    with pytest.raises(LoopConfigError, match="no common state"):
        inspect_network(tiny_network(tiny_config("training-free", loop_order="layer")), IDS, depth=2)
