"""Parcae: diagonal injection, value embeddings on alternate layers, squared ReLU.

Sources: the configs and code of SandyResearch/parcae-* (arXiv 2604.12946), read in public ports of them.
"""

from __future__ import annotations

from typing import Any

from model import families
from model.checkpoints.keys import Keys, positive
from model.checkpoints.layout import Entry, Layout, layout_with_head, one
from model.checkpoints.raven import published_layer
from model.config import LoopedConfig
from model.exceptions import CheckpointError

_TRAINING = (
    *("init", "init_orthogonal", "skip_initialization", "use_fused_head", "sampling_scheme", "lockstep_n"),
    *("lockstep_k", "curriculum_target", "activation_checkpoint_impl", "recurrent_iteration_method"),
    *("randomize_positions_from", "_recurrent_block_config", "_is_recurrent_block_config", "_class_name"),
    *("architecture_class_name", "model_class_name"),
)


def read(keys: Keys) -> LoopedConfig:
    """Read a Parcae config, which may lack a `model_type`."""
    keys.ignore(*_TRAINING)
    keys.off("bias", "qk_bias", "clip_qkv", "logit_softcap", "debias_attention", "center_attention")
    for name, allowed in {
        "injection_type": "diagonal",
        "state_init": "like-init",
        "block_class_name": "TransformerPreNormBlock",
        "norm_class_name": "RMSNorm",
        "mlp_class_name": "BaseMLP",
        "nonlin_name": "ReLU2",
        "init_strategy": "scaled-zero",  # with it, embeddings and logits have a scale of 1
        "mup_model_scaling_factor": 1,
    }.items():
        keys.only(name, allowed)
    for name in ("qk_norm", "prelude_norm"):
        if not keys.flag(name, default=None):
            raise CheckpointError(f"{name} is false in config.json; only true is implemented")
    config = families.parcae(_sizes(keys))
    _check_value_embeddings(config, keys.count("mean_backprop_depth", default=4))
    return config


def write(config: LoopedConfig) -> dict[str, Any]:
    """Return config.json of a Parcae."""
    block = config.block
    # A training setting, but the published code derives from it which layers gate their value embeddings.
    backprop_depth = 1 if (config.num_core_layers - config.num_layers) % 2 == 0 else 2
    return {
        "_class_name": "ParcaeConfig",
        "model_type": "parcae",
        "vocab_size": config.vocab_size,
        "padded_vocab_size": config.vocab_size,
        "block_size": config.max_position_embeddings,
        "n_embd": block.hidden_size,
        "intermediate_size": block.intermediate_size,
        "num_attention_heads": block.num_attention_heads,
        "num_key_value_heads": block.num_key_value_heads,
        "recurrent_embedding_dimension": block.hidden_size,
        "recurrent_intermediation_embedding_dimension": block.intermediate_size,
        "n_layers_in_prelude": config.num_prelude_layers,
        "n_layers_in_recurrent_block": config.num_core_layers,
        "n_layers_in_coda": config.num_coda_layers,
        "mean_recurrence": config.recurrence_depth,
        "mean_backprop_depth": backprop_depth,
        "injection_type": "diagonal",
        "state_init": "like-init",
        "init_strategy": "scaled-zero",
        "prelude_norm": True,
        "qk_norm": True,
        "norm_eps": block.norm_eps,
        "rope_settings": {"use_rope": True, "rope_condense_ratio": 1, "rope_base": block.rope.theta},
        "tie_embeddings": config.tie_word_embeddings,
    }


def layout(config: LoopedConfig) -> Layout:
    """Return the names of a Parcae's tensors."""
    injection = "parts.injection"
    entries = [
        one("transformer.wte", "embed_tokens"),
        one("transformer.ln_prelude", "parts.prelude_norm"),
        one("transformer.adapter.A_log", f"{injection}.log_rate"),
        one("transformer.adapter.dt_bias", f"{injection}.step_bias"),
        one("transformer.adapter.B", f"{injection}.input_proj.weight"),  # a bare matrix
        one("transformer.C", "parts.core_output"),
        one("transformer.ln_f", "parts.final_norm"),
    ]
    for layer in range(config.num_layers):
        entries += _layer_entries(config, layer)
    entries += [one(f"value_embeds.{i}", f"value_embeddings.{i}") for i in config.value_embedding_layers]
    return layout_with_head(entries, frozenset({"freqs_cis"}), is_tied=config.tie_word_embeddings)


def _layer_entries(config: LoopedConfig, layer: int) -> list[Entry]:
    names = {
        "norm_1": "input_layernorm",
        "attn.c_q": "self_attn.q_proj",
        "attn.c_k": "self_attn.k_proj",
        "attn.c_v": "self_attn.v_proj",
        "attn.c_proj": "self_attn.o_proj",
        "norm_2": "post_attention_layernorm",
        "mlp.fc": "mlp.up_proj",
        "mlp.proj": "mlp.down_proj",
    }
    if layer in config.value_embedding_layers:
        names["attn.ve_gate"] = "self_attn.value_gate"
    prefix = published_layer(config, layer)
    return [one(f"{prefix}.{published}", f"layers.{layer}.{name}") for published, name in names.items()]


def _check_value_embeddings(config: LoopedConfig, backprop_depth: int) -> None:
    """Check that the layers with a gate are those with embeddings.

    The published code counts layers for the gates along the unrolled network, and for embeddings along the
    physical one. Both agree in the released sizes; elsewhere a layer has one without the other.
    """
    last = config.num_core_layers * backprop_depth - 1
    for layer in range(config.num_layers):
        unrolled = layer
        if layer >= config.core_stop:
            unrolled += config.num_core_layers * (config.recurrence_depth - 1)
        if (unrolled % 2 == last % 2) != (layer in config.value_embedding_layers):
            raise CheckpointError(
                f"layer {layer} has a value embedding or its gate, but not both, with these layer counts, "
                f"mean_recurrence and mean_backprop_depth {backprop_depth}"
            )


def _sizes(keys: Keys) -> families.Sizes:
    width, num_heads = keys.count("n_embd", "hidden_size"), keys.count("num_attention_heads")
    hidden = keys.count("intermediate_size")
    keys.only("hidden_size", width)
    keys.only("head_dim", width // num_heads)
    keys.only("recurrent_embedding_dimension", width)
    keys.only("recurrent_intermediation_embedding_dimension", hidden)
    keys.only("recurrent_num_attention_heads", num_heads)
    rope = keys.table("rope_settings")
    if not rope.get("use_rope", True) or rope.get("rope_condense_ratio", 1) != 1:
        raise CheckpointError(
            f"rope_settings {rope} in config.json: only plain rotary positions are implemented"
        )
    keys.only("use_rope", True)
    keys.only("rope_condense_ratio", 1)
    keys.ignore("num_hidden_layers", "max_seq_len", "vocab_size")
    base = keys.number("rope_theta", "rope_base", default=50_000)
    return families.Sizes(
        vocab_size=keys.count("padded_vocab_size", "vocab_size"),
        hidden_size=width,
        intermediate_size=hidden,
        num_attention_heads=num_heads,
        num_key_value_heads=keys.count("num_key_value_heads", default=num_heads),
        head_dim=width // num_heads,
        num_prelude_layers=keys.count("n_layers_in_prelude", least=0),
        num_core_layers=keys.count("n_layers_in_recurrent_block"),
        num_coda_layers=keys.count("n_layers_in_coda", least=0),
        max_position_embeddings=keys.count("block_size", "max_position_embeddings"),
        recurrence_depth=keys.count("mean_recurrence"),
        rope_theta=positive("rope_base", rope.get("rope_base", base)),
        norm_eps=keys.number("norm_eps", default=1e-5),
        tie_word_embeddings=keys.flag("tie_embeddings", "tie_word_embeddings"),
    )
