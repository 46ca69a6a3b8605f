"""The looped window over layers that overwrite their inputs, as fused kernels do on CUDA but not on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from model.loop import LoopConfig

LOOP = LoopConfig(window_start=0, window_stop=2, anchor_weight=0.3)
DEPTH_T = torch.tensor([1, 2, 3, 4], dtype=torch.int32)


class StubLayer(nn.Module):
    """A layer of the residual form; where `in_place`, each add writes into both of its operands."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.self_attn = nn.Module()
        self.self_attn.attn = SimpleNamespace(current_pass=0)

    def forward(
        self, _: Any, hidden: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, residual = (hidden.sin(), hidden) if residual is None else self.add_norm(hidden, residual)
        hidden, residual = self.add_norm(hidden.cos(), residual)
        return 2 * hidden, residual

    def add_norm(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden + residual
        if not self.in_place:
            return total.tanh(), total
        return hidden.copy_(total.tanh()), residual.copy_(total)


def window_output(*, in_place: bool, has_residual: bool) -> torch.Tensor:
    from model.vllm_plugin.looped_qwen2 import LoopedQwen2ForCausalLM

    looped = LoopedQwen2ForCausalLM.__new__(LoopedQwen2ForCausalLM, vllm_config=SimpleNamespace())
    nn.Module.__init__(looped)
    looped.loop = LOOP
    looped.model = SimpleNamespace(layers=[StubLayer(in_place), StubLayer(in_place)])
    x_TD = torch.linspace(-2, 2, 32).reshape(4, 8)
    residual_TD = x_TD.flip(0).clone() if has_residual else None
    hidden, residual = looped._run_window(None, x_TD, residual_TD, DEPTH_T, 4)
    return hidden + residual


@pytest.mark.parametrize("has_residual", [True, False])
def test_layers_that_overwrite_their_inputs_give_the_same_result(has_residual: bool) -> None:
    overwriting = window_output(in_place=True, has_residual=has_residual)
    pure = window_output(in_place=False, has_residual=has_residual)
    assert torch.equal(overwriting, pure)
