"""Sigma-MoE and SwitchHead (arXiv 2405.16039): experts chosen by sigmoid scores, their outputs summed by
them.

Shapes: A rows, D the residual's width, E experts, F an expert's hidden width, H heads, K the width of a head.
"""

from __future__ import annotations

import torch
from torch import nn

from model.config import BlockConfig


class SigmaMoe(nn.Module):
    """y = sum over the top k experts of s_e relu(x K_e) V_e, with s = sigmoid(n(x) W)."""

    def __init__(self, block: BlockConfig) -> None:
        super().__init__()
        assert block.moe is not None
        moe, width = block.moe, block.hidden_size
        self.num_chosen = moe.num_experts_per_token
        self.router = nn.Linear(width, moe.num_experts, bias=False)
        self.keys = nn.Parameter(torch.zeros(moe.num_experts, width, moe.expert_size))
        self.values = nn.Parameter(torch.zeros(moe.num_experts, moe.expert_size, width))

    def forward(self, x_AD: torch.Tensor, raw_AD: torch.Tensor) -> torch.Tensor:
        """Return what the experts add (A, D). Scores read the norm's output, experts what is before it."""
        score_AC, chosen_AC = torch.sigmoid(self.router(x_AD)).topk(self.num_chosen, dim=-1)
        out_AD = torch.zeros_like(raw_AD)
        for expert in chosen_AC.unique().tolist():
            row_N, choice_N = (chosen_AC == expert).nonzero(as_tuple=True)
            hidden_NF = torch.relu(raw_AD[row_N] @ self.keys[expert])
            moved_ND = hidden_NF @ self.values[expert] * score_AC[row_N, choice_N, None]
            out_AD = out_AD.index_add(0, row_N, moved_ND)
        return out_AD


class HeadExperts(nn.Module):
    """A projection of each head as a mixture: into the head (values) or out of it (outputs)."""

    def __init__(self, block: BlockConfig, num_heads: int, *, is_output: bool) -> None:
        super().__init__()
        assert block.moe is not None
        moe, width, head_dim = block.moe, block.hidden_size, block.head_dim
        self.num_heads, self.num_experts = num_heads, moe.num_attention_experts
        self.num_chosen = moe.num_attention_experts_per_token
        self.router = nn.Linear(width, num_heads * moe.num_attention_experts, bias=False)
        shape = (head_dim, width) if is_output else (width, head_dim)
        self.experts = nn.Parameter(torch.zeros(num_heads, moe.num_attention_experts, *shape))

    def forward(self, x_AHI: torch.Tensor, routed_AD: torch.Tensor) -> torch.Tensor:
        """Return each head's mixture (A, H, O) of its own input (A, H, I)."""
        score_AHE = torch.sigmoid(self.router(routed_AD)).unflatten(-1, (self.num_heads, self.num_experts))
        kept_AHC, chosen_AHC = score_AHE.topk(self.num_chosen, dim=-1)
        weight_AHE = torch.zeros_like(score_AHE).scatter(-1, chosen_AHC, kept_AHC)
        return torch.einsum("ahi,heio,ahe->aho", x_AHI, self.experts, weight_AHE)
