"""Turns a checkpoint into a folder that the engine loads: one safetensors file, config, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.provision.catalogue import Dtype
from model.provision.checkpoints import Checkpoint
from model.provision.progress import OnProgress, Progress
from model.provision.quantise import (
    EMBEDDING,
    HEAD,
    is_quantised,
    quantise_tensors,
    quantization_config,
    untied,
)
from model.provision.tensors import write_safetensors

if TYPE_CHECKING:
    import torch


def convert(checkpoint: Checkpoint, folder: Path, dtype: Dtype, on_progress: OnProgress) -> None:
    """Write the checkpoint into the empty `folder`, in `dtype`."""
    checkpoint.save_tokenizer(folder)
    _write_json(folder / "config.json", _config(checkpoint.config, dtype))
    # Token ids only: the published sampling defaults (a repetition penalty among them) would change how a
    # server samples behind the caller's back.
    _write_json(folder / "generation_config.json", checkpoint.token_ids())
    write_safetensors(
        folder / "model.safetensors",
        _counted(_converted(checkpoint, dtype), converted_bytes(checkpoint, dtype), on_progress),
    )


def converted_bytes(checkpoint: Checkpoint, dtype: Dtype) -> int:
    """Return the size of the converted tensors, to within a thousandth (the scales are not counted)."""
    float_bytes = 2 if dtype == "bfloat16" else 4
    counts = dict(checkpoint.num_elements())
    if dtype == "int8":
        counts.setdefault(HEAD, counts[EMBEDDING])
    return sum(
        count * (1 if dtype == "int8" and is_quantised(name) else float_bytes)
        for name, count in counts.items()
    )


def _converted(checkpoint: Checkpoint, dtype: Dtype) -> Iterator[tuple[str, torch.Tensor]]:
    if dtype != "int8":
        return _cast(checkpoint.tensors(), dtype)
    tensors = _cast(checkpoint.tensors(), "float32")
    return quantise_tensors(untied(tensors) if checkpoint.config.get("tie_word_embeddings") else tensors)


def _config(config: dict[str, Any], dtype: Dtype) -> dict[str, Any]:
    dropped = ("torch_dtype", "_name_or_path", "_model_name_or_path")
    kept = {key: value for key, value in config.items() if key not in dropped}
    if dtype == "int8":
        layout = {"tie_word_embeddings": False, "quantization_config": quantization_config()}
        return kept | {"dtype": "float32", **layout}
    return kept | {"dtype": dtype}


def _cast(tensors: Iterable[tuple[str, torch.Tensor]], dtype: Dtype) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    target = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    for name, tensor in tensors:
        yield name, tensor.to(target)


def _counted(
    tensors: Iterable[tuple[str, torch.Tensor]], total_bytes: int, on_progress: OnProgress
) -> Iterator[tuple[str, torch.Tensor]]:
    done_bytes = 0
    for name, tensor in tensors:
        yield name, tensor
        done_bytes += tensor.numel() * tensor.element_size()
        on_progress(Progress("convert", min(done_bytes, total_bytes), total_bytes, name))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
