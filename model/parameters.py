"""How many parameters a looped decoder has, by what becomes of them: from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import BlockConfig, LoopedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """Numbers of parameters by what becomes of them when weights are quantised or split over devices."""

    linear: int  # projections inside blocks: quantised, split
    embedding: int  # token and value embeddings, and a head of its own: in float, split
    other: int  # norms, biases, gates, injection, routers: in float, on each device

    @property
    def total(self) -> int:
        """Number of all parameters, a tied head counted once."""
        return self.linear + self.embedding + self.other


def parameter_counts(config: LoopedConfig) -> ParameterCounts:
    """Return the numbers of parameters of `LoopedNetwork(config)`."""
    block, vocab = config.block, config.vocab_size
    width, key_size = block.hidden_size, block.num_key_value_heads * block.head_dim
    linear = config.num_layers * (_attention_weights(block) + _mlp_weights(block))
    embedding = vocab * width * (1 if config.tie_word_embeddings else 2)
    embedding += len(config.value_embedding_layers) * vocab * key_size
    other = config.num_layers * _block_extras(block) + _parts(config)
    other += len(config.value_embedding_layers) * block.value_gate_channels * block.num_key_value_heads
    if config.later_attention == "gated_window":
        other += config.num_core_layers * block.num_attention_heads * (block.head_dim + 1)
    return ParameterCounts(linear=linear, embedding=embedding, other=other)


def _attention_weights(block: BlockConfig) -> int:
    width, head_dim = block.hidden_size, block.head_dim
    query_size, key_size = block.num_attention_heads * head_dim, block.num_key_value_heads * head_dim
    count = width * (query_size + key_size)
    if block.moe and block.moe.num_attention_experts:
        num_heads = block.num_attention_heads + block.num_key_value_heads
        return count + num_heads * block.moe.num_attention_experts * width * (
            head_dim + 1
        )  # and a router each
    return count + width * (key_size + query_size)


def _mlp_weights(block: BlockConfig) -> int:
    if block.moe:
        return block.moe.num_experts * block.hidden_size * (2 * block.moe.expert_size + 1)
    return (3 if block.mlp == "swiglu" else 2) * block.hidden_size * block.intermediate_size


def _block_extras(block: BlockConfig) -> int:
    """Return the number of norm weights and biases of one block."""
    width, query_size = block.hidden_size, block.num_attention_heads * block.head_dim
    key_size = block.num_key_value_heads * block.head_dim
    num_norms = 4 if block.norm_placement in ("sandwich", "outer_sandwich") else 2
    count = num_norms * _norm_size(block)
    count += {"head": 2 * block.head_dim, "projection": query_size + key_size}.get(block.qk_norm, 0)
    count += query_size + key_size if block.qk_bias else 0
    has_experts = block.moe is not None and block.moe.num_attention_experts > 0
    count += (query_size + (1 if has_experts else 2) * key_size) if block.qkv_bias else 0
    count += width if block.output_bias and not has_experts else 0
    if block.mlp_bias and block.moe is None:
        count += (2 if block.mlp == "swiglu" else 1) * block.intermediate_size + width
    return count


def _norm_size(block: BlockConfig) -> int:
    return block.hidden_size * (2 if block.norm == "layer" else 1)


def _parts(config: LoopedConfig) -> int:
    width = config.block.hidden_size
    count = {"linear": 2 * width * width, "diagonal": width * width + 2 * width}.get(config.injection, 0)
    count += (config.has_final_norm + config.norms_prelude_output) * _norm_size(config.block)
    count += width * width if config.projects_core_output else 0
    count += width + 1 if config.gate in ("hazard", "act") else 0
    return count + (width * config.max_recurrence_depth if config.gate.endswith("_choice") else 0)
