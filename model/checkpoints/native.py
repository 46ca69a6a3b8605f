"""The layout of families without released weights: `LoopedNetwork`'s names, the whole config in one key."""

from __future__ import annotations

from typing import Any

from model.checkpoints.keys import Keys
from model.config import LoopedConfig

MODEL_TYPE = "loopwright_looped"
CONFIG_KEY = "loopwright_looped"


def read(keys: Keys) -> LoopedConfig:
    """Read a config that `write` made."""
    config = LoopedConfig.from_json_dict(keys.table(CONFIG_KEY))
    keys.ignore("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    keys.ignore("num_key_value_heads", "head_dim", "max_position_embeddings", "tie_word_embeddings")
    return config


def write(config: LoopedConfig) -> dict[str, Any]:
    """Return config.json: the settings, and the sizes under the names that servers look for."""
    return {
        "architectures": ["LoopedForCausalLM"],
        "model_type": MODEL_TYPE,
        **common_sizes(config),
        CONFIG_KEY: config.to_json_dict(),
    }


def common_sizes(config: LoopedConfig) -> dict[str, Any]:
    """Return the sizes under the names that Llama's config gave them, and servers know."""
    block = config.block
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": block.hidden_size,
        "intermediate_size": block.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": block.num_attention_heads,
        "num_key_value_heads": block.num_key_value_heads,
        "head_dim": block.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
