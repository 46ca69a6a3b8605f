"""Tiny random checkpoints and networks: real Qwen2 layout, real tokenizer, made offline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model import families
from model.config import LoopedConfig, MoeConfig

if TYPE_CHECKING:
    from model.network import LoopedNetwork

_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_qwen2(
    path: Path,
    *,
    num_layers: int = 6,
    hidden_size: int = 64,
    max_position_embeddings: int = 2048,
    tie_word_embeddings: bool = False,
    seed: int = 0,
) -> Path:
    """Write a random float32 Qwen2 checkpoint with a byte-level tokenizer (259 tokens) and return `path`.

    Weights are drawn wider than for training, so that logits are far apart and every layer, pass and position
    shows in the sampled tokens; wider still, and float32 rounding would show too. The same arguments give the
    same weights.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=256 + len(_SPECIAL_TOKENS),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=1,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=256 + _SPECIAL_TOKENS.index("<|im_end|>"),
        pad_token_id=256,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = Qwen2ForCausalLM(config)
        for name, parameter in network.named_parameters():
            mean, std = _weight_distribution(name)
            parameter.normal_(mean, std)
    network.save_pretrained(path)
    _save_tokenizer(path, max_position_embeddings)
    return path


def _weight_distribution(name: str) -> tuple[float, float]:
    """Return mean and standard deviation."""
    if name.endswith("norm.weight"):
        return 1.0, 0.1
    return 0.0, 0.12 if ".layers." in name else 0.2


def _save_tokenizer(path: Path, model_max_length: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_SPECIAL_TOKENS[2],
        pad_token=_SPECIAL_TOKENS[0],
        chat_template=_CHAT_TEMPLATE,
        model_max_length=model_max_length,
    ).save_pretrained(path)


def make_tiny_checkpoint(family: str, path: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a random float32 checkpoint of a looped family, in its published layout, with a byte tokenizer.

    Families without released weights get this project's own layout. `changes` replace fields of the config.
    """
    return save_tiny(tiny_network(tiny_config(family, **changes), seed=seed), path)


def save_tiny(network: LoopedNetwork, path: Path) -> Path:
    """Write a network of `tiny_network` as a checkpoint, with a byte tokenizer, and return `path`."""
    from model.checkpoints.loading import save_checkpoint

    save_checkpoint(network, path, token_ids={"bos_token_id": None, "eos_token_id": 258, "pad_token_id": 256})
    _save_tokenizer(path, network.config.max_position_embeddings)
    return path


def tiny_config(family: str, **changes: Any) -> LoopedConfig:
    """Return a family's preset at a size that runs in milliseconds: width 64, 259 tokens, 1 or 2 core layers.

    `changes` replace fields of the result.
    """
    has_ends = family in ("huginn", "parcae", "retrofit", "training-free", "mor")
    sizes = families.Sizes(
        vocab_size=256 + len(_SPECIAL_TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=2,
        num_key_value_heads=2 if family in ("ouro", "huginn", "parcae", "universal-transformer") else 1,
        head_dim=32,
        num_prelude_layers=1 if has_ends else 0,
        num_core_layers=1 if family == "universal-transformer" else 2,
        num_coda_layers=1 if has_ends else 0,
        max_position_embeddings=512,
        recurrence_depth=2 if family == "iquest-loop" else 1 if family == "training-free" else 3,
        max_recurrence_depth=3 if family in ("iquest-loop", "mor") else 4,
    )
    extras: dict[str, dict[str, Any]] = {
        "iquest-loop": {"window_size": 4},
        "moeut": {
            "moe": MoeConfig(
                num_experts=6,
                expert_size=16,
                num_experts_per_token=2,
                num_attention_experts=3,
                num_attention_experts_per_token=2,
            )
        },
    }
    return replace(families.PRESETS[family](sizes, **extras.get(family, {})), **changes)


def tiny_network(config: LoopedConfig, *, seed: int = 0) -> LoopedNetwork:
    """Return the network of `config` in float32; the same arguments give the same random weights.

    Drawn wider than for training, so that every layer, pass and position shows in the logits.
    """
    import torch

    from model.network import LoopedNetwork

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = LoopedNetwork(config).eval().requires_grad_(False)
        for name, parameter in network.named_parameters():
            is_norm = name.endswith("norm.weight") or "layernorm" in name
            mean, std = (1.0, 0.1) if is_norm and name.endswith("weight") else (0.0, 0.12)
            parameter.normal_(mean, std)
    return network
