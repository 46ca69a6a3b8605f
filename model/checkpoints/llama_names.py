"""Families whose tensors have Llama's names: IQuest-Loop, Ouro, Nanbeige, dense ones with a looped window.

Sources: vLLM's iquest_loopcoder.py; the published configs and code of ByteDance/Ouro-1.4B and
Nanbeige/Nanbeige4.2-3B; transformers' Llama, Qwen2, Qwen3 and OLMo-2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from model import families
from model.checkpoints.keys import LOOP_KEY, Keys
from model.checkpoints.layout import Entry, Layout, layout_with_head, one
from model.checkpoints.native import common_sizes
from model.config import BlockConfig, LoopedConfig
from model.exceptions import CheckpointError
from model.loop import LoopConfig

DENSE_TYPES = ("llama", "qwen2", "qwen3", "olmo2")
_BUFFERS = frozenset({"inv_freq"})
# Features that Nanbeige's code has and its release has not, and the sizes that belong to them.
_NANBEIGE_OFF = (
    *("qk_layernorm", "emb_neighbor_num", "emb_split_num", "ngram_vocab_size_ratio", "emb_tp_num"),
    *("ngram_embedding_hidden_size", "ngram_mod_force_prime", "ngram_compressed_tokenizer"),
    *("skip_ngram_for_input", "insert_ngram_layer_idx", "ngram_insert_all_layers"),
    *("ngram_layer_downproject_size", "enable_double_loop_split", "loop_middle_layers", "loop_share_kv"),
    *("loop_loss_weights", "mhc_diff_for_loop", "mhc_double_stream_position_for_loop"),
    *("enable_hyper_connection", "enable_mhc", "enable_h_res_identity", "mhc_identity_nohresparam"),
    *("enable_depth_attention", "depth_attention_stride", "depth_attention_recent_window"),
)
_NANBEIGE_SIZES = (
    *("num_residual_streams", "mhc_sinkhorn_iterations", "mhc_init_gating_factor", "ngram_fused_mode"),
    "depth_attention_static_anchor_once",
)


def read_iquest(keys: Keys) -> LoopedConfig:
    """Read `iquestloopcoder`."""
    keys.off("attention_bias", "mlp_bias", "clip_qkv")
    sizes = _sizes(keys, depth=keys.count("loop_num", default=2))
    return _with_rope(
        families.iquest_loop(sizes, window_size=keys.count("loop_window_size", default=64)), keys
    )


def write_iquest(config: LoopedConfig) -> dict[str, Any]:
    """Return config.json of an IQuest-Loop."""
    loop = {"loop_num": config.recurrence_depth, "loop_window_size": config.window_size}
    return {**_written(config, "iquestloopcoder", "IQuestLoopCoderForCausalLM"), **loop}


def read_ouro(keys: Keys) -> LoopedConfig:
    """Read `ouro`."""
    keys.off("attention_bias", "mlp_bias")
    config = families.ouro(_sizes(keys, depth=keys.count("total_ut_steps")))
    threshold = keys.number("early_exit_threshold", default=1.0)
    return _with_rope(replace(config, exit_threshold=threshold), keys)


def write_ouro(config: LoopedConfig) -> dict[str, Any]:
    """Return config.json of an Ouro."""
    loop = {"total_ut_steps": config.recurrence_depth, "early_exit_threshold": config.exit_threshold}
    return {**_written(config, "ouro", "OuroForCausalLM"), **loop}


def read_nanbeige(keys: Keys) -> LoopedConfig:
    """Read `nanbeige`, as far as released weights use it."""
    keys.off("attention_bias", "mlp_bias", *_NANBEIGE_OFF)
    keys.ignore(*_NANBEIGE_SIZES)
    config = families.nanbeige(_sizes(keys, depth=keys.count("num_loops", default=1)))
    keys.only("kv_channels", config.block.head_dim)
    return _with_rope(replace(config, norms_each_pass=not keys.flag("skip_loop_final_norm")), keys)


def write_nanbeige(config: LoopedConfig) -> dict[str, Any]:
    """Return config.json of a Nanbeige."""
    loop = {"num_loops": config.recurrence_depth, "skip_loop_final_norm": not config.norms_each_pass}
    return {**_written(config, "nanbeige", "NanbeigeForCausalLM"), **loop}


def read_dense(keys: Keys) -> LoopedConfig:
    """Read a dense checkpoint as a training-free loop, its settings under `LOOP_KEY`, or the default window.

    The window can be no part of a published config: it is this project's choice.
    """
    sizes = _sizes(keys, depth=1)
    block = replace(_dense_block(keys, sizes), rope=keys.rope())
    num_layers = sizes.num_core_layers
    chosen = keys.loop("window_start", "window_stop", "step_rule", "anchor_weight", "max_recurrence_depth")
    loop = replace(LoopConfig.for_num_layers(num_layers), **chosen)
    if loop.window_stop > num_layers:
        raise CheckpointError(
            f"{LOOP_KEY}: the window ends at layer {loop.window_stop}, the checkpoint at {num_layers}"
        )
    sizes = replace(
        sizes,
        num_prelude_layers=loop.window_start,
        num_core_layers=loop.num_window_layers,
        num_coda_layers=num_layers - loop.window_stop,
        max_recurrence_depth=loop.max_recurrence_depth,
    )
    rule = {"step_rule": loop.step_rule, "anchor_weight": loop.anchor_weight}
    return families.training_free(sizes, block=block, **rule)


def write_dense(config: LoopedConfig) -> dict[str, Any]:
    """Return config.json of the donor, with the loop under `LOOP_KEY`."""
    block = config.block
    if block.norm_placement == "output":
        kind, architecture = "olmo2", "Olmo2ForCausalLM"
    elif block.qk_norm == "head":
        kind, architecture = "qwen3", "Qwen3ForCausalLM"
    elif block.qkv_bias and not block.output_bias:
        kind, architecture = "qwen2", "Qwen2ForCausalLM"
    else:
        kind, architecture = "llama", "LlamaForCausalLM"
    biases = {"attention_bias": block.qkv_bias, "mlp_bias": block.mlp_bias} if kind == "llama" else {}
    loop = LoopConfig(
        window_start=config.core_start,
        window_stop=config.core_stop,
        step_rule=config.step_rule,
        anchor_weight=config.anchor_weight,
        max_recurrence_depth=config.max_recurrence_depth,
    )
    return {**_written(config, kind, architecture), **biases, LOOP_KEY: loop.to_json_dict()}


def layout(config: LoopedConfig) -> Layout:
    """Return the names of a checkpoint of any of these families."""
    entries = [one("model.embed_tokens", "embed_tokens"), one("model.norm", "parts.final_norm")]
    if config.gate == "hazard":
        entries.append(one("model.early_exit_gate", "parts.gate"))
    for layer in range(config.num_layers):
        entries += _layer_entries(config, layer)
    return layout_with_head(entries, _BUFFERS, is_tied=config.tie_word_embeddings)


def _layer_entries(config: LoopedConfig, layer: int) -> list[Entry]:
    block = config.block
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    attention += ["q_norm", "k_norm"] if block.qk_norm in ("head", "projection") else []
    names = {f"self_attn.{name}": f"self_attn.{name}" for name in attention}
    names |= {f"mlp.{name}": f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
    if block.norm_placement == "output":  # OLMo-2's two norms stand after attention and MLP
        names["post_attention_layernorm"] = "input_layernorm_2"
        names["post_feedforward_layernorm"] = "post_attention_layernorm_2"
    else:
        norms = ["input_layernorm", "post_attention_layernorm"]
        if block.norm_placement == "sandwich":
            norms += [f"{name}_2" for name in norms]
        names |= {name: name for name in norms}
    entries = [
        one(f"model.layers.{layer}.{published}", f"layers.{layer}.{name}")
        for published, name in names.items()
    ]
    if config.later_attention == "gated_window":
        entries.append(one(f"model.gate_projections.{layer}", f"layers.{layer}.self_attn.loop_gate"))
    return entries


def _dense_block(keys: Keys, sizes: families.Sizes) -> BlockConfig:
    block = families.training_free(sizes).block
    if keys.model_type == "qwen2":
        return replace(block, qkv_bias=True)
    if keys.model_type == "llama":
        has_bias = keys.flag("attention_bias")
        return replace(block, qkv_bias=has_bias, output_bias=has_bias, mlp_bias=keys.flag("mlp_bias"))
    keys.off("attention_bias")
    if keys.model_type == "qwen3":
        return replace(block, qk_norm="head")
    keys.off("clip_qkv")
    return replace(block, qk_norm="projection", norm_placement="output")


def _sizes(keys: Keys, *, depth: int) -> families.Sizes:
    keys.only("hidden_act", "silu")
    keys.only("pretraining_tp", 1)
    keys.off("use_mrope")
    keys.full_attention()
    width, num_heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    return families.Sizes(
        vocab_size=keys.count("vocab_size"),
        hidden_size=width,
        intermediate_size=keys.count("intermediate_size"),
        num_attention_heads=num_heads,
        num_key_value_heads=keys.count("num_key_value_heads", default=num_heads),
        head_dim=keys.count("head_dim", default=width // num_heads),
        num_core_layers=keys.count("num_hidden_layers"),
        max_position_embeddings=keys.count("max_position_embeddings"),
        recurrence_depth=depth,
        norm_eps=keys.number("rms_norm_eps", default=1e-6),
        tie_word_embeddings=keys.flag("tie_word_embeddings"),
    )


def _with_rope(config: LoopedConfig, keys: Keys) -> LoopedConfig:
    return replace(config, block=replace(config.block, rope=keys.rope()))


def _written(config: LoopedConfig, model_type: str, architecture: str) -> dict[str, Any]:
    block = config.block
    written: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        **common_sizes(config),
        "rms_norm_eps": block.norm_eps,
        "rope_theta": block.rope.theta,
        "hidden_act": "silu",
    }
    if block.rope.scaling is not None:
        written["rope_scaling"] = dict(block.rope.scaling)
    return written
