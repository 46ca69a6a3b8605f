"""Loop settings and depths: what is accepted, what is refused, what keeps caches apart."""

import dataclasses
import itertools

import pytest

from model.exceptions import DepthError, LoopConfigError
from model.loop import LoopConfig

LOOP = LoopConfig(window_start=10, window_stop=14)


@pytest.mark.parametrize(
    ("num_layers", "window"),
    [
        (24, (10, 14)),  # Qwen2.5-0.5B
        (28, (12, 16)),  # Qwen3-1.7B, where the paper has layers 12 to 15
        (36, (16, 20)),
        (6, (1, 5)),
        (4, (0, 4)),
        (3, (0, 3)),  # fewer layers than the rule wants
        (1, (0, 1)),
    ],
)
def test_default_window_is_four_layers_around_the_middle(num_layers: int, window: tuple[int, int]) -> None:
    loop = LoopConfig.for_num_layers(num_layers)
    assert (loop.window_start, loop.window_stop) == window


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_depth_within_the_range_is_served(depth: int) -> None:
    assert LOOP.check_depth(depth) == depth


@pytest.mark.parametrize("value", [0, 5, -1, True, False, 2.0, "2", None, [1], float("nan")])
def test_any_other_depth_is_refused_with_the_range_and_the_value(value: object) -> None:
    with pytest.raises(DepthError) as caught:
        LOOP.check_depth(value)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == f"recurrence_depth must be a whole number from 1 to 4, got {value!r}"
    assert caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"window_start": -1},
        {"window_stop": 10},
        {"window_stop": 3},
        {"step_rule": "euler"},
        {"anchor_weight": 1.5},
        {"anchor_weight": float("nan")},
        {"max_recurrence_depth": 0},
    ],
)
def test_settings_that_describe_no_loop_are_refused(change: dict) -> None:
    with pytest.raises(LoopConfigError):
        dataclasses.replace(LOOP, **change)


def test_settings_survive_json() -> None:
    loop = LoopConfig(window_start=1, window_stop=3, step_rule="damped", max_recurrence_depth=7)
    assert LoopConfig.from_json_dict(loop.to_json_dict()) == loop


@pytest.mark.parametrize("values", [{}, {"window_start": 1, "window_stop": 3, "windows": []}])
def test_settings_with_missing_or_unknown_keys_are_refused(values: dict) -> None:
    with pytest.raises(LoopConfigError):
        LoopConfig.from_json_dict(values)


def test_every_loop_and_depth_has_a_salt_of_its_own_that_vllm_takes() -> None:
    loops = [
        LOOP,
        dataclasses.replace(LOOP, window_start=9),
        dataclasses.replace(LOOP, window_stop=15),
        dataclasses.replace(LOOP, anchor_weight=0.1 + 0.2),
        dataclasses.replace(LOOP, step_rule="damped"),
        dataclasses.replace(LOOP, step_rule="plain"),
    ]
    salts = [loop.cache_salt(depth) for loop, depth in itertools.product(loops, (1, 2, 3, 4))]
    assert len(set(salts)) == len(salts)
    for salt in salts:
        assert 0 < len(salt) <= 128
        assert not set(salt) & set("@/\\\0")


def test_a_setting_that_changes_no_answer_changes_no_salt() -> None:
    assert dataclasses.replace(LOOP, max_recurrence_depth=8).cache_salt(2) == LOOP.cache_salt(2)
    damped = dataclasses.replace(LOOP, step_rule="damped")
    assert dataclasses.replace(damped, anchor_weight=0.9).cache_salt(2) == damped.cache_salt(2)


def test_no_salt_for_a_depth_that_is_not_served() -> None:
    with pytest.raises(DepthError):
        LOOP.cache_salt(5)
