"""Loop settings and depths: what is accepted, what is refused, what keeps caches apart."""

import dataclasses
import itertools
from dataclasses import replace
from typing import Any

import pytest

from model.config import LoopedConfig
from model.exceptions import LoopConfigError
from model.loop import LoopConfig
from model.requests import cache_salt, loop_request
from model.testing import tiny_config

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


def test_every_loop_depth_and_exit_has_a_salt_of_its_own() -> None:
    base = tiny_config("training-free")
    configs = [
        base,
        replace(base, num_prelude_layers=0, num_coda_layers=2),
        replace(base, anchor_weight=0.1 + 0.2),
        replace(base, step_rule="damped"),
        replace(base, later_attention="shared"),
        replace(base, step_rule="plain"),
    ]
    salts = [salt(config, depth) for config, depth in itertools.product(configs, (1, 2, 3, 4))]
    salts += [salt(configs[-1], 4, exit_rule="latent", exit_threshold=one) for one in (0.1, 0.2)]
    assert len(set(salts)) == len(salts)


def test_a_setting_that_changes_no_cached_key_changes_no_salt() -> None:
    base = tiny_config("ouro")
    assert salt(replace(base, max_recurrence_depth=8), 2) == salt(base, 2)
    # Nested depths: a row that stops is computed to its depth all the same.
    assert salt(base, 4, exit_rule="latent", exit_threshold=0.1) == salt(base, 4)


def salt(config: LoopedConfig, depth: int, **extra_args: Any) -> str:
    return cache_salt(config, loop_request({"recurrence_depth": depth, **extra_args}, config))
