"""One transformer block: attention and MLP, each with its norms where the family puts them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from model.config import BlockConfig, LoopedConfig
from model.network.attention import Attention
from model.network.cache import KVCache
from model.network.moe import SigmaMoe
from model.parts import Norm

NORMS_INPUT = frozenset({"pre", "sandwich", "outer_sandwich", "peri"})
NORMS_BRANCH = frozenset({"sandwich", "output"})  # what is added
NORMS_SUM = frozenset({"outer_sandwich", "post"})  # what comes out


class DenseMlp(nn.Module):
    """SwiGLU, squared ReLU or ReLU."""

    def __init__(self, block: BlockConfig) -> None:
        super().__init__()
        self.kind, self.scale = block.mlp, block.mlp_scale
        width, hidden, bias = block.hidden_size, block.intermediate_size, block.mlp_bias
        if self.kind == "swiglu":
            self.gate_proj = nn.Linear(width, hidden, bias=bias)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x_AD: torch.Tensor, _raw_AD: torch.Tensor) -> torch.Tensor:
        """Return what the MLP adds (A, D)."""
        up = self.up_proj(x_AD)
        if self.kind == "swiglu":
            hidden = functional.silu(self.gate_proj(x_AD)) * up
        else:
            hidden = torch.relu(up).square() if self.kind == "relu2" else torch.relu(up)
        return self.down_proj(hidden * self.scale)


class Block(nn.Module):
    """Attention, then MLP."""

    def __init__(self, config: LoopedConfig, layer: int) -> None:
        super().__init__()
        block = config.block
        self.placement = block.norm_placement
        self.self_attn = Attention(config, layer)
        self.mlp = SigmaMoe(block) if block.mlp == "sigma_moe" else DenseMlp(block)

        def norm() -> Norm:
            return Norm(block.hidden_size, block.norm, block.norm_eps)

        if self.placement in NORMS_INPUT:
            self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        if self.placement in NORMS_BRANCH | NORMS_SUM:
            self.input_layernorm_2, self.post_attention_layernorm_2 = norm(), norm()

    def forward(
        self,
        x_AD: torch.Tensor,
        positions_A: torch.Tensor,
        pass_index: int,
        cache: KVCache,
        token_values_AE: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows after this block (A, D), and its attention's probabilities (H, A, S)."""
        probs: list[torch.Tensor] = []

        def attend(normed_AD: torch.Tensor, raw_AD: torch.Tensor) -> torch.Tensor:
            out_AD, probs_HAS = self.self_attn(
                normed_AD, raw_AD, positions_A, pass_index, cache, token_values_AE
            )
            probs.append(probs_HAS)
            return out_AD

        x_AD = self._branch(x_AD, attend, "input_layernorm")
        return self._branch(x_AD, self.mlp, "post_attention_layernorm"), probs[0]

    def _branch(
        self, x_AD: torch.Tensor, run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], norm: str
    ) -> torch.Tensor:
        normed_AD = getattr(self, norm)(x_AD) if self.placement in NORMS_INPUT else x_AD
        added_AD = run(normed_AD, x_AD)
        if self.placement in NORMS_BRANCH:
            added_AD = getattr(self, f"{norm}_2")(added_AD)
        sum_AD = x_AD + added_AD
        return getattr(self, f"{norm}_2")(sum_AD) if self.placement in NORMS_SUM else sum_AD
