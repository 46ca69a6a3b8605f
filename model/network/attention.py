"""Causal attention over a cache with slots: its own pass's keys, the first pass's, or both under a gate."""

from __future__ import annotations

import math

import torch
from torch import nn

from model.config import LoopedConfig, RopeConfig
from model.exceptions import CheckpointError
from model.network.cache import KVCache
from model.network.moe import HeadExperts
from model.parts import Norm, unit_rms


class Attention(nn.Module):
    """Grouped-query attention. A rows, S cached tokens, H heads, G key heads, K the width of a head."""

    def __init__(self, config: LoopedConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.is_looped = config.core_start <= layer < config.core_stop
        block = config.block
        self.num_heads, self.num_kv_heads = block.num_attention_heads, block.num_key_value_heads
        self.head_dim = block.head_dim
        query_size, key_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(block.hidden_size, query_size, bias=block.qkv_bias)
        self.k_proj = nn.Linear(block.hidden_size, key_size, bias=block.qkv_bias)
        if block.moe and block.moe.num_attention_experts:
            self.v_experts = HeadExperts(block, self.num_kv_heads, is_output=False)
            self.o_experts = HeadExperts(block, self.num_heads, is_output=True)
        else:
            self.v_proj = nn.Linear(block.hidden_size, key_size, bias=block.qkv_bias)
            self.o_proj = nn.Linear(query_size, block.hidden_size, bias=block.output_bias)
        if block.qk_norm in ("head", "projection"):
            is_per_head = block.qk_norm == "head"
            self.q_norm = Norm(self.head_dim if is_per_head else query_size, "rms", block.norm_eps)
            self.k_norm = Norm(self.head_dim if is_per_head else key_size, "rms", block.norm_eps)
        if block.qk_bias:
            self.q_bias = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
            self.k_bias = nn.Parameter(torch.zeros(self.num_kv_heads, self.head_dim))
        if block.value_gate_channels and layer in config.value_embedding_layers:
            self.value_gate = nn.Linear(block.value_gate_channels, self.num_kv_heads, bias=False)
        if self.is_looped and config.later_attention == "gated_window":
            self.loop_gate = nn.Linear(self.head_dim, self.num_heads)  # a row and a bias for each head

    def forward(
        self,
        x_AD: torch.Tensor,
        raw_AD: torch.Tensor,
        positions_A: torch.Tensor,
        pass_index: int,
        cache: KVCache,
        token_values_AE: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what attention adds to the rows (A, D), and its probabilities (H, A, S).

        Args:
            x_AD: the block's input, after its norm; what queries and keys are made of.
            raw_AD: the same before the norm; what peri-normed values are made of.
            positions_A: the rows' places in the sequence.
            pass_index: from 0; 0 for layers outside the core.
            cache: holds earlier tokens, gets these.
            token_values_AE: the rows' token embeddings for the values of this layer, if it has some.
        """
        q_AHK, k_AGK = self._queries_and_keys(x_AD, positions_A)
        v_AGK = self._values(x_AD, raw_AD, token_values_AE)
        rule = self.config.later_attention if self.is_looped and pass_index > 0 else "own"
        slot = self.config.slot(pass_index) if self.is_looped else 0
        if rule != "shared":
            cache.write(self.layer, slot, positions_A, k_AGK, v_AGK)
        out_AHK, probs_HAS = self._attend(
            q_AHK, positions_A, cache, slot, self.config.window_size if rule == "gated_window" else None
        )
        if rule == "gated_window":
            global_AHK, _ = self._attend(q_AHK, positions_A, cache, 0, None)
            gate_AH = torch.einsum("ahk,hk->ah", q_AHK, self.loop_gate.weight) + self.loop_gate.bias
            out_AHK = torch.lerp(out_AHK, global_AHK, torch.sigmoid(gate_AH)[..., None])
        return self._output(out_AHK, x_AD), probs_HAS

    def _queries_and_keys(
        self, x_AD: torch.Tensor, positions_A: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        block = self.config.block
        q, k = self.q_proj(x_AD), self.k_proj(x_AD)
        if block.qk_norm == "projection":
            q, k = self.q_norm(q), self.k_norm(k)
        q_AHK = q.unflatten(-1, (self.num_heads, self.head_dim))
        k_AGK = k.unflatten(-1, (self.num_kv_heads, self.head_dim))
        if block.qk_norm == "head":
            q_AHK, k_AGK = self.q_norm(q_AHK), self.k_norm(k_AGK)
        if block.qk_bias:
            q_AHK, k_AGK = q_AHK + self.q_bias, k_AGK + self.k_bias
        q_AHK, k_AGK = rotate(q_AHK, positions_A, block.rope), rotate(k_AGK, positions_A, block.rope)
        if block.qk_norm == "head_after_rope":
            eps = torch.finfo(q_AHK.dtype).eps
            q_AHK, k_AGK = unit_rms(q_AHK, eps), unit_rms(k_AGK, eps)
        return q_AHK, k_AGK

    def _values(
        self, x_AD: torch.Tensor, raw_AD: torch.Tensor, token_values_AE: torch.Tensor | None
    ) -> torch.Tensor:
        block = self.config.block
        value_input_AD = raw_AD if block.norm_placement == "peri" else x_AD
        if hasattr(self, "v_experts"):
            return self.v_experts(value_input_AD[:, None].expand(-1, self.num_kv_heads, -1), x_AD)
        v_AGK = self.v_proj(value_input_AD).unflatten(-1, (self.num_kv_heads, self.head_dim))
        if token_values_AE is None:
            return v_AGK
        gate_AG = 2 * torch.sigmoid(self.value_gate(x_AD[:, : block.value_gate_channels]))
        return v_AGK + gate_AG[..., None] * token_values_AE.unflatten(-1, (self.num_kv_heads, self.head_dim))

    def _attend(
        self, q_AHK: torch.Tensor, positions_A: torch.Tensor, cache: KVCache, slot: int, window: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        one = cache.slots[self.layer, slot]
        num_groups = self.num_heads // self.num_kv_heads
        k_SHK = one.keys_SHK.repeat_interleave(num_groups, dim=1)
        v_SHK = one.values_SHK.repeat_interleave(num_groups, dim=1)
        distance_AS = positions_A[:, None] - torch.arange(cache.max_tokens)
        is_seen_AS = (distance_AS >= 0) & one.is_present_S
        if window is not None:
            is_seen_AS &= distance_AS < window
        scores_HAS = torch.einsum("ahk,shk->has", q_AHK, k_SHK) / math.sqrt(self.head_dim)
        probs_HAS = scores_HAS.masked_fill(~is_seen_AS, -torch.inf).softmax(-1)
        return torch.einsum("has,shk->ahk", probs_HAS, v_SHK), probs_HAS

    def _output(self, out_AHK: torch.Tensor, x_AD: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "o_experts"):
            return self.o_experts(out_AHK, x_AD).sum(1)
        return self.o_proj(out_AHK.flatten(-2))


def rotate(x_AHK: torch.Tensor, positions_A: torch.Tensor, rope: RopeConfig) -> torch.Tensor:
    """Return queries or keys turned by their positions.

    Raises:
        CheckpointError: the checkpoint stretches positions in a way that the reference network does not.
    """
    if rope.style == "none":
        return x_AHK
    width = int(x_AHK.shape[-1] * rope.fraction)
    turned, rest = x_AHK[..., :width].float(), x_AHK[..., width:]
    angle_A1R = (positions_A[:, None].float() * _rates(rope, width))[:, None]
    cos, sin = angle_A1R.cos(), angle_A1R.sin()
    if rope.style == "halves":
        first, second = turned.chunk(2, dim=-1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    else:
        first, second = turned.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
    return torch.cat([turned.to(x_AHK.dtype), rest], dim=-1)


def _rates(rope: RopeConfig, width: int) -> torch.Tensor:
    """Return how far each pair of components turns from one position to the next (R,)."""
    rate_R = rope.theta ** (-torch.arange(0, width, 2).float() / width)
    scaling = rope.scaling or {}
    kind = scaling.get("rope_type", "default")
    if kind == "default":
        return rate_R
    if kind == "linear":
        return rate_R / scaling["factor"]
    if kind != "llama3":
        raise CheckpointError(f"the reference network has no {kind} rope scaling")
    # Llama 3.1: slow pairs are stretched, fast ones are not, those between are mixed.
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns_R = scaling["original_max_position_embeddings"] * rate_R / (2 * math.pi)
    kept_R = ((turns_R - low) / (high - low)).clamp(0, 1)
    return rate_R * (kept_R + (1 - kept_R) / scaling["factor"])
