"""One block of a looped decoder on vLLM's layers, with the fused add-norm where the family allows it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from vllm.config import VllmConfig
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    RowParallelLinear,
)

from model.config import BlockConfig, LoopedConfig
from model.network.block import NORMS_BRANCH, NORMS_INPUT, NORMS_SUM
from model.network.moe import SigmaMoe
from model.parts import Norm
from model.vllm_plugin.attention import LoopedAttention

# The rows of a batch as two tensors whose sum they are, of which the second may be None.
Summands = tuple[torch.Tensor, torch.Tensor | None]


class DenseMlp(nn.Module):
    """SwiGLU, squared ReLU or ReLU."""

    def __init__(self, block: BlockConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.kind, self.scale = block.mlp, block.mlp_scale
        common = {"bias": block.mlp_bias, "quant_config": vllm_config.quant_config}
        width, hidden = block.hidden_size, block.intermediate_size
        if self.kind == "swiglu":
            self.gate_up_proj = MergedColumnParallelLinear(
                width, [hidden] * 2, prefix=f"{prefix}.gate_up_proj", **common
            )
            self.act_fn = SiluAndMul()
        else:
            self.up_proj = ColumnParallelLinear(width, hidden, prefix=f"{prefix}.up_proj", **common)
        self.down_proj = RowParallelLinear(hidden, width, prefix=f"{prefix}.down_proj", **common)

    def forward(self, x_AD: torch.Tensor, _raw_AD: torch.Tensor | None) -> torch.Tensor:
        """Return what the MLP adds (A, D)."""
        if self.kind == "swiglu":
            hidden = self.act_fn(self.gate_up_proj(x_AD)[0])
        else:
            hidden = functional.relu(self.up_proj(x_AD)[0])
            hidden = hidden.square() if self.kind == "relu2" else hidden
        return self.down_proj(hidden * self.scale if self.scale != 1.0 else hidden)[0]


class LoopedBlock(nn.Module):
    """Attention, then MLP; `model.network.block` says what the placements of norms mean."""

    def __init__(self, config: LoopedConfig, vllm_config: VllmConfig, layer: int, layers_prefix: str) -> None:
        super().__init__()
        block = config.block
        self.placement = block.norm_placement
        # The fused kernel overwrites both of its arguments and knows RMSNorm alone.
        self.is_fused = self.placement == "pre" and block.norm == "rms"
        self.self_attn = LoopedAttention(config, vllm_config, layer, layers_prefix)
        self.mlp = (
            SigmaMoe(block)
            if block.mlp == "sigma_moe"
            else DenseMlp(block, vllm_config, f"{layers_prefix}.{layer}.mlp")
        )
        if self.placement in NORMS_INPUT:
            self.input_layernorm, self.post_attention_layernorm = make_norm(block), make_norm(block)
        if self.placement in NORMS_BRANCH | NORMS_SUM:
            self.input_layernorm_2, self.post_attention_layernorm_2 = make_norm(block), make_norm(block)

    def forward(
        self,
        hidden_AD: torch.Tensor,
        residual_AD: torch.Tensor | None,
        positions_A: torch.Tensor,
        pass_index: int,
        token_values_AE: torch.Tensor | None = None,
    ) -> Summands:
        """Return the rows after this block. Both arguments may be overwritten."""
        if not self.is_fused:
            return self._unfused(hidden_AD, positions_A, pass_index, token_values_AE), None
        if residual_AD is None:
            residual_AD, hidden_AD = hidden_AD, self.input_layernorm(hidden_AD)
        else:
            hidden_AD, residual_AD = self.input_layernorm(hidden_AD, residual_AD)
        hidden_AD = self.self_attn(hidden_AD, None, positions_A, pass_index, token_values_AE)
        hidden_AD, residual_AD = self.post_attention_layernorm(hidden_AD, residual_AD)
        return self.mlp(hidden_AD, None), residual_AD

    def _unfused(
        self,
        x_AD: torch.Tensor,
        positions_A: torch.Tensor,
        pass_index: int,
        token_values_AE: torch.Tensor | None,
    ) -> torch.Tensor:
        normed_AD = self.input_layernorm(x_AD) if self.placement in NORMS_INPUT else x_AD
        added_AD = self.self_attn(normed_AD, x_AD, positions_A, pass_index, token_values_AE)
        x_AD = self._add(x_AD, added_AD, "input_layernorm_2")
        normed_AD = self.post_attention_layernorm(x_AD) if self.placement in NORMS_INPUT else x_AD
        return self._add(x_AD, self.mlp(normed_AD, x_AD), "post_attention_layernorm_2")

    def _add(self, x_AD: torch.Tensor, added_AD: torch.Tensor, norm: str) -> torch.Tensor:
        if self.placement in NORMS_BRANCH:
            return x_AD + getattr(self, norm)(added_AD)
        x_AD = x_AD + added_AD
        return getattr(self, norm)(x_AD) if self.placement in NORMS_SUM else x_AD


def joined(x_AD: Summands) -> torch.Tensor:
    """Return the rows."""
    hidden_AD, residual_AD = x_AD
    return hidden_AD if residual_AD is None else hidden_AD + residual_AD


def make_norm(block: BlockConfig) -> nn.Module:
    """Return the family's norm, on vLLM's kernel where it has one."""
    if block.norm == "rms":
        return RMSNorm(block.hidden_size, eps=block.norm_eps)
    return Norm(block.hidden_size, block.norm, block.norm_eps)
