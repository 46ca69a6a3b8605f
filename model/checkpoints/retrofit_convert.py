"""Makes a looped checkpoint of a dense one: its first layers as prelude, its last as core and coda (arXiv
2511.07384), and an adapter that takes the prelude's output alone.

Such a checkpoint computes, at every depth, what the donor computes without the layers that were dropped: the
adapter ignores the state until training teaches it otherwise. The result is where training starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from model import families
from model.checkpoints.adapters import adapter_for
from model.checkpoints.files import read_config_file, read_tensors
from model.checkpoints.loading import checked_tensors, write_checkpoint
from model.config import LoopedConfig
from model.exceptions import CheckpointError
from model.provision.checkpoints import copy_tokenizer

_TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How many of the donor's layers become what."""

    num_prelude_layers: int
    num_core_layers: int
    num_coda_layers: int
    recurrence_depth: int = 4

    def kept_layers(self, num_layers: int) -> list[int]:
        """Return the donor's layers in their new order: the first, and the last.

        Raises:
            CheckpointError: the donor has too few, or the core would be empty.
        """
        num_last = self.num_core_layers + self.num_coda_layers
        num_kept = self.num_prelude_layers + num_last
        if min(self.num_prelude_layers, self.num_coda_layers) < 0 or self.num_core_layers < 1:
            raise CheckpointError("a cut needs a core of at least one layer")
        if num_kept > num_layers:
            raise CheckpointError(f"the cut takes {num_kept} layers, and the donor has {num_layers}")
        return [*range(self.num_prelude_layers), *range(num_layers - num_last, num_layers)]


def convert(source: Path, target: Path, cut: Cut) -> LoopedConfig:
    """Write the retrofit of the dense checkpoint in `source` to `target`; return what it is.

    Holds the layers that are kept in memory, in the donor's type. A tied head becomes one of its own, as the
    published retrofits have it.

    Raises:
        CheckpointError: the donor is not dense, the cut does not fit it, its tensors are not what its config
            says, or `target` holds a checkpoint already.
    """
    if (target / "config.json").exists():
        raise CheckpointError(f"{target} holds a checkpoint already", hint="Choose another folder.")
    published = read_config_file(source)
    donor = adapter_for(published)
    if donor.config.family != "training-free" or "quantization_config" in published:
        raise CheckpointError(f"{source} is no dense checkpoint in float, but {donor.config.family}")
    kept = cut.kept_layers(donor.config.num_layers)
    config = _config(donor.config, cut)
    adapter_for(config).published_config()  # refuses a donor that the layout cannot hold, before the work
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in checked_tensors(donor, read_tensors(source)):
        new_name = _renamed(name, kept)
        if new_name is not None:
            tensors[new_name] = tensor
    tensors.setdefault("lm_head.weight", tensors["embed_tokens.weight"])
    tensors["parts.injection.adapter.weight"] = _input_only(tensors["embed_tokens.weight"])
    token_ids = {key: published[key] for key in _TOKEN_KEYS if key in published}
    write_checkpoint(config, tensors, target, token_ids=token_ids)
    copy_tokenizer(source, target)
    return config


def _config(donor: LoopedConfig, cut: Cut) -> LoopedConfig:
    block = donor.block
    sizes = families.Sizes(
        vocab_size=donor.vocab_size,
        hidden_size=block.hidden_size,
        intermediate_size=block.intermediate_size,
        num_attention_heads=block.num_attention_heads,
        num_key_value_heads=block.num_key_value_heads,
        head_dim=block.head_dim,
        num_prelude_layers=cut.num_prelude_layers,
        num_core_layers=cut.num_core_layers,
        num_coda_layers=cut.num_coda_layers,
        max_position_embeddings=donor.max_position_embeddings,
        recurrence_depth=cut.recurrence_depth,
    )
    return families.retrofit(sizes, block=block)


def _renamed(name: str, kept: list[int]) -> str | None:
    """Return a donor tensor's name in the retrofit, or None where its layer is dropped."""
    if not name.startswith("layers."):
        return name
    _, layer, rest = name.split(".", 2)
    return f"layers.{kept.index(int(layer))}.{rest}" if int(layer) in kept else None


def _input_only(like: torch.Tensor) -> torch.Tensor:
    """Return the adapter (D, 2D) on [state, input] that passes the input on and nothing of the state."""
    identity = torch.eye(like.shape[1], dtype=like.dtype)
    return torch.cat([torch.zeros_like(identity), identity], dim=1)
