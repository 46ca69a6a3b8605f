"""The mathematics of the loop on a flat batch of tokens, shared by every engine adapter.

Shapes: T tokens of a batch, D the width of the residual stream. `model.reference` states the same function
sequence by sequence and shares no code with this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from model.loop import LoopConfig


def run_passes(
    run_window: Callable[[int, torch.Tensor], torch.Tensor],
    x_TD: torch.Tensor,
    first_TD: torch.Tensor,
    depth_T: torch.Tensor,
    deepest: int,
    loop: LoopConfig,
) -> torch.Tensor:
    """Return what leaves the looped window, each row at its own depth.

    Args:
        run_window: (pass number k >= 1, state TD) -> window output TD; must leave the state as it is.
        x_TD: the window's input.
        first_TD: the window's output for that input, which is pass 0.
        depth_T: each row's depth, int32, from 1.
        deepest: the largest of them, known on the host so that nothing waits for the device.
        loop: the step rule.

    A row past its depth still runs, masked: its state is frozen and its keys and values go to slots that no
    row of its request ever reads.
    """
    depth_T1 = depth_T[:, None]
    step_T1 = _sub_step(depth_T1, loop).to(x_TD.dtype)
    x_TD = torch.lerp(x_TD, first_TD, step_T1)
    for k in range(1, deepest):
        moved_TD = torch.lerp(x_TD, run_window(k, x_TD), step_T1)
        x_TD = torch.where(depth_T1 > k, moved_TD, x_TD)
    return torch.lerp(x_TD, first_TD, loop.result_anchor_weight)


def _sub_step(depth_T1: torch.Tensor, loop: LoopConfig) -> torch.Tensor:
    if loop.step_rule == "plain":
        return torch.ones_like(depth_T1, dtype=torch.float32)
    return 1.0 / depth_T1
