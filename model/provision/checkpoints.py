"""One view of a checkpoint, whatever its file format: configuration, tensors one at a time, tokenizer."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from model.exceptions import ModelError

if TYPE_CHECKING:
    import torch

# Architectures whose linear layers are named as quantise.is_quantised expects.
_MODEL_TYPES = ("qwen2", "qwen3", "llama")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
)


class Checkpoint(Protocol):
    """A checkpoint that can be read tensor by tensor."""

    config: dict[str, Any]  # as in config.json

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each tensor under its transformers name, in float, one at a time."""
        ...

    def num_elements(self) -> dict[str, int]:
        """Return the number of elements of each tensor that `tensors` yields."""
        ...

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files, chat template included."""
        ...

    def token_ids(self) -> dict[str, Any]:
        """Return `bos_token_id`, `eos_token_id` and `pad_token_id`, as far as they are known."""
        ...


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder of safetensors or a GGUF file.

    Raises:
        ModelError: it is neither, or of an architecture that is not supported.
    """
    if path.is_dir():
        return SafetensorsCheckpoint(path)
    if path.suffix == ".gguf" and path.is_file():
        from model.provision.gguf_checkpoint import GgufCheckpoint

        return GgufCheckpoint(path)
    raise ModelError(
        f"{path} is no model", hint="give a folder with config.json and safetensors files, or a .gguf file"
    )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a checkpoint's tokenizer, chat template and licence, as far as they are there."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


class SafetensorsCheckpoint:
    """A folder as `save_pretrained` writes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards = sorted(folder.glob("*.safetensors"))
        config_path = folder / "config.json"
        if not config_path.is_file() or not self._shards:
            raise ModelError(f"{folder} holds no config.json with safetensors files")
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise ModelError(f"{folder} holds no tokenizer", hint="put tokenizer.json beside config.json")
        self.config: dict[str, Any] = json.loads(config_path.read_text())
        if self.config.get("model_type") not in _MODEL_TYPES:
            raise ModelError(
                f"{folder} is of type {self.config.get('model_type')!r}",
                hint=f"supported: {', '.join(_MODEL_TYPES)}",
            )
        if "quantization_config" in self.config:
            raise ModelError(
                f"{folder} is quantised already", hint="use its path as the model, without pulling it"
            )

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each tensor; a head that is tied to the embedding is left out."""
        for name, file in self._names():
            yield name, file.get_tensor(name)

    def num_elements(self) -> dict[str, int]:
        """Return the number of elements of each tensor that `tensors` yields."""
        return {name: math.prod(file.get_slice(name).get_shape()) for name, file in self._names()}

    def _names(self) -> Iterator[tuple[str, Any]]:
        from safetensors import safe_open

        tied = self.config.get("tie_word_embeddings", False)
        for shard in self._shards:
            with safe_open(shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if not (tied and name == "lm_head.weight"):
                        yield name, file

    def save_tokenizer(self, folder: Path) -> None:
        """Copy the tokenizer's files as they are."""
        copy_tokenizer(self._folder, folder)

    def token_ids(self) -> dict[str, Any]:
        """Return the ids of generation_config.json, else those of config.json."""
        path = self._folder / "generation_config.json"
        ids = json.loads(path.read_text()) if path.is_file() else self.config
        return {
            key: ids[key]
            for key in ("bos_token_id", "eos_token_id", "pad_token_id")
            if ids.get(key) is not None
        }
