"""Huginn, and dense models retrofitted with its recurrence: one config format (`huginn_raven`), two blocks.

A retrofit keeps its donor's block, rotary positions and embedding scale, and puts no norm between core and
coda. Its config does not name the donor; `DONOR_KEY` does where this project wrote it. Published ones have
Llama and OLMo-2 as donors; for Qwen's, biases and norms stand where the same layout would put them.
Sources: seal-rg/recurrent-pretraining and LoopedLMs/retrofitting-recurrence, raven_modeling_minimal*.py and
convert_pretrained_model/convert_*.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from model import families
from model.checkpoints.keys import Keys, positive
from model.checkpoints.layout import Entry, Layout, layout_with_head, one
from model.config import BlockConfig, LoopedConfig, RopeConfig
from model.exceptions import CheckpointError

DONOR_KEY = "loopwright_donor"
_DONORS: dict[str, dict[str, Any]] = {
    "llama": {},
    "olmo2": {"norm_placement": "output", "qk_norm": "projection"},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
}
_TRAINING = (
    *("init_strategy", "init_orthogonal", "init_values", "activation_checkpoint_impl", "sampling_scheme"),
    *("mean_backprop_depth", "effective_expected_depth", "test_time_noise_type"),
    "architecture_class_name",
)


def read(keys: Keys) -> LoopedConfig:
    """Read `huginn_raven`."""
    keys.ignore(*_TRAINING)
    keys.off("bias", "test_time_noise")
    keys.only("injection_type", "linear")
    keys.only("state_init", "like-init")
    keys.only("block_class_name", "SandwichBlock")
    keys.only("norm_class_name", "RMSNorm_llama")
    keys.only("mlp_class_name", "GatedMLP")
    keys.only("nonlin_name", "SiLU")
    sizes = _sizes(keys)
    return _read_retrofit(keys, sizes) if _is_retrofit(keys) else _read_huginn(keys, sizes)


def write(config: LoopedConfig) -> dict[str, Any]:
    """Return config.json of a Huginn or a retrofit."""
    block, is_retrofit = config.block, config.family == "retrofit"
    written: dict[str, Any] = {
        "architectures": ["RavenForCausalLM"],
        "model_type": "huginn_raven",
        "vocab_size": config.vocab_size,
        "padded_vocab_size": config.vocab_size,
        "n_embd": block.hidden_size,
        "intermediate_size": block.intermediate_size,
        "n_heads": block.num_attention_heads,
        "num_attention_heads": block.num_attention_heads,
        "num_key_value_heads": block.num_key_value_heads,
        "head_dim": block.head_dim,
        "n_layers": config.num_layers,
        "n_layers_in_prelude": config.num_prelude_layers,
        "n_layers_in_recurrent_block": config.num_core_layers,
        "n_layers_in_coda": config.num_coda_layers,
        "mean_recurrence": config.recurrence_depth,
        "norm_eps": block.norm_eps,
        "rope_base": block.rope.theta,
        "qk_bias": block.qk_bias,
        "tie_embeddings": config.tie_word_embeddings,
        "injection_type": "linear",
        "state_init": "like-init",
        "init_values": {
            "std": math.sqrt(2 / (5 * block.hidden_size)) * config.state_noise_scale,
            "embed_scale": config.embedding_scale,
        },
    }
    if not is_retrofit:
        return {**written, "block_size": config.max_position_embeddings}
    written |= {"max_position_embeddings": config.max_position_embeddings, "rope_theta": block.rope.theta}
    written[DONOR_KEY] = _donor_of(block)
    if block.rope.scaling is not None:
        written["rope_scaling"] = dict(block.rope.scaling)
    return written


def layout(config: LoopedConfig) -> Layout:
    """Return the names of a Huginn's or a retrofit's tensors."""
    entries = [
        one("transformer.wte", "embed_tokens"),
        one("transformer.adapter", "parts.injection.adapter"),
        one("transformer.ln_f", "parts.final_norm"),
    ]
    for layer in range(config.num_layers):
        entries += _layer_entries(config, published_layer(config, layer), f"layers.{layer}")
    skipped = frozenset({"freqs_cis", "inv_freq"})
    hint = f'If its donor is an OLMo-2, put "{DONOR_KEY}": "olmo2" into config.json.'
    hint = hint if config.family == "retrofit" else ""
    return layout_with_head(entries, skipped, is_tied=config.tie_word_embeddings, hint=hint)


def published_layer(config: LoopedConfig, layer: int) -> str:
    """Return the name of a physical layer: counted in each of the three parts anew."""
    if layer < config.core_start:
        return f"transformer.prelude.{layer}"
    if layer < config.core_stop:
        return f"transformer.core_block.{layer - config.core_start}"
    return f"transformer.coda.{layer - config.core_stop}"


def _layer_entries(config: LoopedConfig, published: str, name: str) -> list[Entry]:
    block = config.block
    query_size = block.num_attention_heads * block.head_dim
    key_size = block.num_key_value_heads * block.head_dim
    norms = {
        "outer_sandwich": (
            *("input_layernorm", "input_layernorm_2"),
            *("post_attention_layernorm", "post_attention_layernorm_2"),
        ),
        "pre": ("input_layernorm", "post_attention_layernorm"),
        "output": ("input_layernorm_2", "post_attention_layernorm_2"),
    }[block.norm_placement]
    entries = [one(f"{published}.norm_{i}", f"{name}.{norm}") for i, norm in enumerate(norms, start=1)]
    qkv = tuple(f"{name}.self_attn.{part}_proj" for part in "qkv")
    entries.append(Entry(f"{published}.attn.Wqkv", qkv, (query_size, key_size, key_size)))
    if block.qk_bias:
        biases = (f"{name}.self_attn.q_bias", f"{name}.self_attn.k_bias")
        entries.append(Entry(f"{published}.attn.qk_bias", biases, (1, 1), num_unit_axes=2))
    if block.qk_norm in ("head", "projection"):
        entries += [
            one(f"{published}.attn.{part}", f"{name}.self_attn.{part}") for part in ("q_norm", "k_norm")
        ]
    entries.append(one(f"{published}.attn.proj", f"{name}.self_attn.o_proj"))
    gate_up = (f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj")
    entries.append(Entry(f"{published}.mlp.fc", gate_up, (block.intermediate_size,) * 2))
    return [*entries, one(f"{published}.mlp.proj", f"{name}.mlp.down_proj")]


def _is_retrofit(keys: Keys) -> bool:
    if keys.get(DONOR_KEY):
        return True
    return keys.table("init_values").get("embed_scale") == 1.0


def _read_huginn(keys: Keys, sizes: families.Sizes) -> LoopedConfig:
    keys.only("qk_bias", True)
    keys.only("num_key_value_heads", sizes.num_attention_heads)
    keys.ignore("max_position_embeddings")
    scale = positive(
        "embed_scale", keys.table("init_values").get("embed_scale", math.sqrt(sizes.hidden_size))
    )
    config = families.huginn(replace(sizes, rope_theta=keys.number("rope_base", default=50_000)))
    return replace(config, embedding_scale=scale, state_noise_scale=_noise_scale(keys, sizes))


def _read_retrofit(keys: Keys, sizes: families.Sizes) -> LoopedConfig:
    keys.off("qk_bias")
    sizes = replace(
        sizes,
        max_position_embeddings=keys.count("max_position_embeddings", default=sizes.max_position_embeddings),
    )
    rope = keys.rope(base_key="rope_base")
    keys.ignore("rope_base")  # of Huginn's config, on which the retrofits' were built
    block = replace(families.retrofit(sizes).block, rope=RopeConfig(theta=rope.theta, scaling=rope.scaling))
    config = families.retrofit(sizes, block=replace(block, **_DONORS[_donor(keys)]))
    return replace(config, state_noise_scale=_noise_scale(keys, sizes))


def _noise_scale(keys: Keys, sizes: families.Sizes) -> float:
    """Return the first state's noise against what the width implies; retrofits inherited Huginn's."""
    implied = math.sqrt(2 / (5 * sizes.hidden_size))
    return round(positive("std", keys.table("init_values").get("std", implied)) / implied, 9)


def _donor(keys: Keys) -> str:
    """Return the donor's architecture. A published config names its modelling file at best."""
    keys.only(DONOR_KEY, *_DONORS)
    hints = str(keys.get("auto_map", "_name_or_path")).lower()
    return str(keys.get(DONOR_KEY) or ("olmo2" if "olmo" in hints else "llama"))


def _donor_of(block: BlockConfig) -> str:
    """Return the donor whose block this is, or the nearest: `Adapter.published_config` names what differs."""
    if block.norm_placement == "output":
        return "olmo2"
    if block.qk_norm == "head":
        return "qwen3"
    return "qwen2" if block.qkv_bias else "llama"


def _sizes(keys: Keys) -> families.Sizes:
    width, num_heads = keys.count("n_embd", "hidden_size"), keys.count("n_heads", "num_attention_heads")
    keys.only("num_attention_heads", num_heads)
    keys.only("hidden_size", width)
    head_dim = width // num_heads
    if keys.get(DONOR_KEY):  # published code divides, whatever the key says
        head_dim = keys.count("head_dim", default=head_dim)
    keys.only("head_dim", head_dim)
    core = keys.count("n_layers_in_recurrent_block")
    prelude, coda = (keys.count(f"n_layers_in_{part}", least=0) for part in ("prelude", "coda"))
    if keys.count("n_layers", "num_hidden_layers", default=prelude + core + coda) != prelude + core + coda:
        raise CheckpointError(f"n_layers in config.json is not {prelude} + {core} + {coda}")
    is_tied = keys.flag("tie_embeddings", "tie_word_embeddings")
    keys.ignore("num_hidden_layers", "vocab_size")
    return families.Sizes(
        vocab_size=keys.count("padded_vocab_size", "vocab_size"),
        hidden_size=width,
        intermediate_size=keys.count("intermediate_size"),
        num_attention_heads=num_heads,
        num_key_value_heads=keys.count("num_key_value_heads", default=num_heads),
        head_dim=head_dim,
        num_prelude_layers=prelude,
        num_core_layers=core,
        num_coda_layers=coda,
        max_position_embeddings=keys.count("block_size", default=4096),
        recurrence_depth=keys.count("mean_recurrence"),
        norm_eps=keys.number("norm_eps", default=1e-6),
        tie_word_embeddings=is_tied,
    )
