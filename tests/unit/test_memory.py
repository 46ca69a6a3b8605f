"""What a model needs of a machine is known from its configuration, to the byte where bytes are exact."""

import pytest
import torch

from model.families import PRESETS
from model.memory import (
    GIB,
    Demand,
    find_config,
    human_bytes,
    kv_need,
    plan,
    published_names,
    start_line,
    weight_bytes,
    with_depth,
)
from model.network import LoopedNetwork
from model.parameters import parameter_counts
from model.testing import tiny_config

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("name", "per_token"),
    [
        ("ouro-1.4b", 768 * KIB),
        ("ouro-2.6b", 1536 * KIB),
        ("nanbeige4.2-3b", 176 * KIB),
        ("huginn-0125", 132 * 2 * 55 * 96 * 2),  # 2.7 MiB
        ("iquest-coder-40b-loop-instruct", 320 * KIB),
    ],
)
def test_bytes_per_token_are_those_of_the_published_sizes(name: str, per_token: int) -> None:
    assert kv_need(find_config(name)).bytes_per_token == per_token


@pytest.mark.parametrize(
    ("name", "window_bytes"),
    [("iquest-coder-40b-loop-instruct", 20 * MIB), ("iquest-coder-40b-loop-thinking", 2560 * MIB)],
)
def test_windows_of_later_passes_stop_growing(name: str, window_bytes: int) -> None:
    need = kv_need(find_config(name))
    assert need.sequence_bytes(100_000) == 100_000 * 320 * KIB + window_bytes
    assert need.sequence_bytes(10) == 2 * 10 * 320 * KIB


def test_slots_follow_depth_and_policy() -> None:
    ouro = find_config("ouro-1.4b")
    per_token = {
        (depth, policy): kv_need(with_depth(ouro, depth, policy)).bytes_per_token // KIB
        for depth in (1, 2, 8)
        for policy in ("depth_indexed", "last_exited", "single", "first_then_shared")
    }
    assert per_token[1, "depth_indexed"] == 192
    assert per_token[2, "depth_indexed"] == per_token[2, "last_exited"] == 384
    assert per_token[8, "depth_indexed"] == 1536
    assert per_token[8, "single"] == 192
    assert per_token[8, "first_then_shared"] == 384


def test_training_free_loops_cost_slots_in_their_window_only() -> None:
    dense = with_depth(find_config("qwen2.5-coder-1.5b"), 1, None)
    looped = with_depth(dense, 4, None)
    slot = 2 * 2 * 128 * 2
    assert kv_need(dense).bytes_per_token == 28 * slot
    assert kv_need(looped).bytes_per_token == (28 + 4 * 3) * slot


@pytest.mark.parametrize("family", sorted(PRESETS))
@pytest.mark.parametrize("is_tied", [False, True])
def test_every_parameter_is_counted(family: str, is_tied: bool) -> None:
    config = tiny_config(family, tie_word_embeddings=is_tied)
    with torch.device("meta"):
        network = LoopedNetwork(config)
    assert parameter_counts(config).total == sum(one.numel() for one in network.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("ouro-2.6b", 2_667_974_657),
        # Published with the tied head counted twice, and with the buffer of rotary positions.
        ("huginn-0125", 3_911_400_096 - 65_536 * 5280 - 4096 * 96),
        ("recurrent-llama-3.2", 1_385_228_288),
        ("qwen2.5-coder-0.5b", 494_032_768),
        ("qwen2.5-coder-1.5b", 1_543_714_304),
    ],
)
def test_published_parameter_counts_are_met(name: str, published: int) -> None:
    assert parameter_counts(find_config(name)).total == published


def test_every_built_in_configuration_is_read_and_names_its_source() -> None:
    assert len(published_names()) >= 14
    for name, source in published_names().items():
        assert find_config(name).num_core_layers > 0
        assert "/" in source


def test_weights_shrink_with_their_type_and_with_devices() -> None:
    config = find_config("iquest-coder-40b-loop-instruct")
    counts = parameter_counts(config)
    assert weight_bytes(config, "bfloat16") == 2 * counts.total
    assert weight_bytes(config, "float32") == 4 * counts.total
    assert weight_bytes(config, "int8") == counts.linear + 2 * (counts.embedding + counts.other)
    assert 0.5 < weight_bytes(config, "int4") / counts.linear < 0.6
    assert weight_bytes(config, "bfloat16", num_devices=8) < 2 * counts.total / 7.9


def test_the_40b_loop_needs_two_devices_of_80_gib_in_bfloat16() -> None:
    config = find_config("iquest-coder-40b-loop-instruct")
    demand = Demand(concurrency=8, context_length=16_384)
    one, two, eight = (plan(config, demand, num_devices=n, memory_gib=80) for n in (1, 2, 8))
    assert not one.fits
    assert one.problem == "weights and work space do not fit"
    assert two.fits
    assert eight.max_concurrency > 4 * two.max_concurrency
    assert two.kv.bytes_per_token == 160 * KIB


def test_what_is_named_as_the_most_fits_and_one_more_does_not() -> None:
    config = find_config("iquest-coder-40b-loop-thinking")
    demand = Demand(concurrency=4, context_length=12_000)
    got = plan(config, demand, num_devices=2, memory_gib=80)
    sequence = got.kv.sequence_bytes(12_000)
    assert got.max_concurrency * sequence <= got.kv_room_bytes < (got.max_concurrency + 1) * sequence
    longest = got.max_context_length
    assert 4 * got.kv.sequence_bytes(longest) <= got.kv_room_bytes
    assert 4 * got.kv.sequence_bytes(longest + 1) > got.kv_room_bytes


@pytest.mark.parametrize(
    ("name", "num_devices", "context_length", "problem"),
    [("huginn-0125", 2, 1024, "55 heads"), ("huginn-0125", 1, 8192, "ends at 4,096 tokens")],
)
def test_what_cannot_run_says_why(name: str, num_devices: int, context_length: int, problem: str) -> None:
    demand = Demand(context_length=context_length)
    got = plan(find_config(name), demand, num_devices=num_devices, memory_gib=800)
    assert problem in got.problem
    assert not got.fits


def test_the_line_at_an_engine_s_start_names_the_bytes() -> None:
    assert start_line(find_config("ouro-1.4b")) == (
        "KV cache of ouro, depth up to 4, depth_indexed: 768 KiB per token, as bfloat16"
    )
    line = start_line(find_config("iquest-coder-40b-loop-thinking"), num_devices=2)
    assert "160 KiB per token and 1.2 GiB of windows per sequence on each device" in line


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(12, "12 B"), (768 * KIB, "768 KiB"), (1536 * KIB, "1.5 MiB"), (80 * GIB, "80 GiB")],
)
def test_sizes_read_as_people_write_them(num_bytes: int, text: str) -> None:
    assert human_bytes(num_bytes) == text
