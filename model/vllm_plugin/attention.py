"""Attention of a looped layer on vLLM's kernels: one `Attention`, hence one KV cache, for each slot.

Shapes: A rows, H query heads and G key heads of this rank, K the width of a head, E = G * K.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import QKVParallelLinear, ReplicatedLinear, RowParallelLinear
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.utils import set_weight_attrs

from model.config import LoopedConfig
from model.network.moe import HeadExperts
from model.parts import unit_rms

KeysAndValues = tuple[torch.Tensor, torch.Tensor]


class LoopedAttention(nn.Module):
    """Projections, norms and rotation of one layer, shared by its passes, and a KV cache for each slot."""

    def __init__(self, config: LoopedConfig, vllm_config: VllmConfig, layer: int, layers_prefix: str) -> None:
        super().__init__()
        self.config, self.block = config, config.block
        self.is_looped = config.core_start <= layer < config.core_stop
        num_ranks = get_tensor_model_parallel_world_size()
        self.num_heads = self.block.num_attention_heads // num_ranks
        self.num_kv_heads = max(1, self.block.num_key_value_heads // num_ranks)
        self.head_dim = self.block.head_dim
        self.has_head_experts = bool(self.block.moe and self.block.moe.num_attention_experts)
        self._add_projections(vllm_config, f"{layers_prefix}.{layer}.self_attn")
        self._add_small_parts(layer)
        self.rotary_emb = self._rotary_embedding()
        self.attn = self._make_slot(vllm_config, f"{layers_prefix}.{layer}.self_attn.attn", None)
        # vLLM finds a KV cache by the layer index in its name, so each further slot gets an index no layer
        # has.
        further = range(1, config.num_slots()) if self.is_looped else range(0)
        self.further_slots = nn.ModuleList(
            self._make_slot(
                vllm_config,
                f"{layers_prefix}.{layer + slot * config.num_layers}.self_attn.attn",
                config.window_size if config.later_attention == "gated_window" else None,
            )
            for slot in further
        )
        self._written: KeysAndValues | None = None

    def _add_projections(self, vllm_config: VllmConfig, prefix: str) -> None:
        block, quant_config = self.block, vllm_config.quant_config
        if self.has_head_experts:
            query_size = block.num_attention_heads * block.head_dim
            key_size = block.num_key_value_heads * block.head_dim
            self.q_proj = ReplicatedLinear(block.hidden_size, query_size, bias=block.qkv_bias)
            self.k_proj = ReplicatedLinear(block.hidden_size, key_size, bias=block.qkv_bias)
            self.v_experts = HeadExperts(block, block.num_key_value_heads, is_output=False)
            self.o_experts = HeadExperts(block, block.num_attention_heads, is_output=True)
            return
        self.qkv_proj = QKVParallelLinear(
            block.hidden_size,
            block.head_dim,
            block.num_attention_heads,
            block.num_key_value_heads,
            bias=block.qkv_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            block.num_attention_heads * block.head_dim,
            block.hidden_size,
            bias=block.output_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.o_proj",
        )

    def _add_small_parts(self, layer: int) -> None:
        block, heads, kv_heads = self.block, self.num_heads, self.num_kv_heads
        if block.qk_norm in ("head", "projection"):
            is_per_head = block.qk_norm == "head"
            self.q_norm = RMSNorm(self.head_dim if is_per_head else heads * self.head_dim, eps=block.norm_eps)
            self.k_norm = RMSNorm(
                self.head_dim if is_per_head else kv_heads * self.head_dim, eps=block.norm_eps
            )
        if block.qk_bias:
            self.q_bias = sharded_parameter((heads, self.head_dim))
            self.k_bias = sharded_parameter((kv_heads, self.head_dim))
        if block.value_gate_channels and layer in self.config.value_embedding_layers:
            self.value_gate = nn.Linear(block.value_gate_channels, kv_heads, bias=False)
            set_weight_attrs(self.value_gate.weight, {"weight_loader": load_shard})
        if self.is_looped and self.config.later_attention == "gated_window":
            self.loop_gate = nn.Linear(self.head_dim, heads)
            set_weight_attrs(self.loop_gate.weight, {"weight_loader": load_shard})
            set_weight_attrs(self.loop_gate.bias, {"weight_loader": load_shard})

    def _rotary_embedding(self) -> nn.Module | None:
        rope = self.block.rope
        if rope.style == "none":
            return None
        parameters = {
            "rope_type": "default",
            "rope_theta": rope.theta,
            "partial_rotary_factor": rope.fraction,
            **(rope.scaling or {}),
        }
        return get_rope(
            self.head_dim,
            max_position=self.config.max_position_embeddings,
            is_neox_style=rope.style == "halves",
            rope_parameters=parameters,
        )

    def _make_slot(self, vllm_config: VllmConfig, prefix: str, window: int | None) -> Attention:
        cache_config = vllm_config.cache_config
        if window is not None:
            cache_config = replace(cache_config, sliding_window=window)
        return Attention(
            self.num_heads,
            self.head_dim,
            self.head_dim**-0.5,
            num_kv_heads=self.num_kv_heads,
            cache_config=cache_config,
            quant_config=vllm_config.quant_config,
            prefix=prefix,
        )

    def forward(
        self,
        x_AD: torch.Tensor,
        raw_AD: torch.Tensor | None,
        positions_A: torch.Tensor,
        pass_index: int,
        token_values_AE: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what attention adds to the rows (A, D).

        Args:
            x_AD: the block's input, after its norm.
            raw_AD: the same before the norm, where values read that.
            positions_A: the rows' places in their sequences.
            pass_index: from 0; 0 for layers outside the core.
            token_values_AE: the rows' token embeddings for this layer's values, if it has some.
        """
        q, k, v = self._queries_keys_values(x_AD, raw_AD, positions_A, token_values_AE)
        rule = self.config.later_attention if self.is_looped and pass_index > 0 else "own"
        slot = self.slot(self.config.slot(pass_index) if self.is_looped else 0)
        if rule == "shared":
            return self._output(slot(q, None, None), x_AD)
        self._written = (k, v)
        out = slot(q, k, v)
        if rule == "gated_window":
            q_AHK = q.unflatten(-1, (self.num_heads, self.head_dim))
            gate_AH = torch.einsum("ahk,hk->ah", q_AHK, self.loop_gate.weight) + self.loop_gate.bias
            gate_AE = torch.sigmoid(gate_AH).repeat_interleave(self.head_dim, dim=-1)
            out = torch.lerp(out, self.attn(q, None, None), gate_AE)
        return self._output(out, x_AD)

    def slot(self, index: int) -> Attention:
        """Return the layer's slot of this index, with its KV cache."""
        return self.attn if index == 0 else cast("Attention", self.further_slots[index - 1])

    def _queries_keys_values(
        self,
        x_AD: torch.Tensor,
        raw_AD: torch.Tensor | None,
        positions_A: torch.Tensor,
        token_values_AE: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.has_head_experts:
            assert raw_AD is not None
            (q, _), (k, _) = self.q_proj(x_AD), self.k_proj(x_AD)
            v = self.v_experts(raw_AD[:, None].expand(-1, self.num_kv_heads, -1), x_AD).flatten(-2)
        else:
            qkv, _ = self.qkv_proj(x_AD)
            key_size = self.num_kv_heads * self.head_dim
            q, k, v = qkv.split([self.num_heads * self.head_dim, key_size, key_size], dim=-1)
        if token_values_AE is not None:
            gate_AG = 2 * torch.sigmoid(self.value_gate(x_AD[:, : self.block.value_gate_channels]))
            v = v + gate_AG.repeat_interleave(self.head_dim, dim=-1) * token_values_AE
        q, k = self._before_rotation(q, k)
        if self.rotary_emb is not None:
            q, k = self.rotary_emb(positions_A, q, k)
        if self.block.qk_norm == "head_after_rope":
            eps = torch.finfo(q.dtype).eps
            q = unit_rms(q.unflatten(-1, (-1, self.head_dim)), eps).flatten(-2)
            k = unit_rms(k.unflatten(-1, (-1, self.head_dim)), eps).flatten(-2)
        return q, k, v

    def _before_rotation(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.block.qk_norm == "projection":
            q, k = self.q_norm(q), self.k_norm(k)
        if self.block.qk_norm == "head":
            q = self.q_norm(q.unflatten(-1, (-1, self.head_dim))).flatten(-2)
            k = self.k_norm(k.unflatten(-1, (-1, self.head_dim))).flatten(-2)
        if self.block.qk_bias:
            q, k = q + self.q_bias.flatten(), k + self.k_bias.flatten()
        return q, k

    def _output(self, out: torch.Tensor, x_AD: torch.Tensor) -> torch.Tensor:
        if self.has_head_experts:
            return self.o_experts(out.unflatten(-1, (self.num_heads, self.head_dim)), x_AD).sum(1)
        return self.o_proj(out)[0]

    @property
    def written(self) -> KeysAndValues:
        """Return the keys and values of the last pass that wrote some."""
        assert self._written is not None
        return self._written

    def put(self, slot: int, written: KeysAndValues, rows_N: torch.Tensor | None = None) -> None:
        """Write what a pass wrote, of all its rows or of some, into another slot at the same places."""
        context = get_forward_context()
        attention = self.slot(slot)
        slot_mapping = context.slot_mapping.get(attention.layer_name)
        if slot_mapping is None or not context.attn_metadata:  # a profiling run
            return
        k, v = (one.view(-1, self.num_kv_heads, self.head_dim) for one in written)
        if rows_N is not None:
            k, v, slot_mapping = k[rows_N], v[rows_N], slot_mapping[rows_N]
        attention.impl.do_kv_cache_update(attention, k, v, attention.kv_cache, slot_mapping)


def sharded_parameter(shape: tuple[int, ...]) -> nn.Parameter:
    """Return a parameter of this rank's share of the first axis."""
    parameter = nn.Parameter(torch.zeros(shape))
    set_weight_attrs(parameter, {"weight_loader": load_shard})
    return parameter


def load_shard(parameter: nn.Parameter, loaded: torch.Tensor) -> None:
    """Copy this rank's share of the first axis."""
    share = parameter.shape[0]
    start = get_tensor_model_parallel_rank() * share if loaded.shape[0] != share else 0
    parameter.data.copy_(loaded.narrow(0, start, share))
