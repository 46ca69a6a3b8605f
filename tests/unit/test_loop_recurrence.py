"""The mathematics of the loop on toy windows whose answers are known."""

import pytest
import torch

from model.loop import LoopConfig
from model.recurrence import run_passes

X_TD = torch.tensor([[1.0, -2.0], [3.0, 5.0], [-4.0, 0.5], [2.0, 2.0]])


def loop(step_rule: str, **settings: float) -> LoopConfig:
    return LoopConfig(window_start=0, window_stop=1, step_rule=step_rule, **settings)


def halve(_: int, x_TD: torch.Tensor) -> torch.Tensor:
    return x_TD / 2


def run(config: LoopConfig, depths: list[int], window=halve) -> torch.Tensor:
    depth_T = torch.tensor(depths, dtype=torch.int32)
    return run_passes(window, X_TD, window(0, X_TD), depth_T, max(depths), config)


def test_depth_1_is_the_window_itself_bit_for_bit() -> None:
    for rule in ("plain", "damped", "damped_anchored"):
        assert torch.equal(run(loop(rule), [1, 1, 1, 1], lambda _, x: x.sin()), X_TD.sin())


def test_plain_rule_applies_the_window_as_often_as_the_depth() -> None:
    assert torch.equal(run(loop("plain"), [1, 2, 3, 4]), X_TD / torch.tensor([[2.0], [4.0], [8.0], [16.0]]))


def test_damped_rule_takes_steps_of_one_over_the_rows_own_depth() -> None:
    # x + (x/2 - x)/K = x (1 - 1/(2K)), K times
    factor_T1 = torch.tensor([[(1 - 0.5 / K) ** K] for K in (1, 2, 3, 4)])
    torch.testing.assert_close(run(loop("damped"), [1, 2, 3, 4]), X_TD * factor_T1)


def test_anchor_mixes_the_plain_pass_into_the_result() -> None:
    damped = run(loop("damped"), [2, 3, 4, 4])
    anchored = run(loop("damped_anchored", anchor_weight=0.25), [2, 3, 4, 4])
    torch.testing.assert_close(anchored, 0.25 * X_TD / 2 + 0.75 * damped)


def test_anchor_of_1_is_the_plain_model_at_any_depth() -> None:
    assert torch.equal(run(loop("damped_anchored", anchor_weight=1.0), [1, 2, 3, 4]), X_TD / 2)


def test_damped_steps_converge_as_depth_grows() -> None:
    config = loop("damped", max_recurrence_depth=64)
    limit = X_TD * torch.tensor(0.5).neg().exp()  # dx/dt = -x/2 until t = 1
    errors = [float((run(config, [depth] * 4) - limit).abs().max()) for depth in (8, 16, 32)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_passes_are_numbered_and_end_with_the_deepest_row() -> None:
    seen: list[int] = []

    def window(k: int, x_TD: torch.Tensor) -> torch.Tensor:
        seen.append(k)
        return x_TD

    run(loop("damped", max_recurrence_depth=9), [1, 3, 2, 3], window)
    assert seen == [0, 1, 2]


def test_what_a_finished_row_computes_further_changes_nothing() -> None:
    def window(k: int, x_TD: torch.Tensor) -> torch.Tensor:
        return x_TD / 2 if k < 2 else torch.full_like(x_TD, float("nan"))

    out = run(loop("damped_anchored"), [1, 2, 2, 3], window)
    assert torch.equal(out[:3], run(loop("damped_anchored"), [1, 2, 2, 3])[:3])
    assert out[3].isnan().all()
