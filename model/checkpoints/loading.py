"""A checkpoint's tensors, checked one by one against what its config promises, and the network of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from model.checkpoints.adapters import Adapter, adapter_for
from model.checkpoints.files import read_config_file, read_tensors
from model.config import LoopedConfig
from model.exceptions import CheckpointError
from model.network import LoopedNetwork
from model.provision.quantise import dequantised_tensors, quantization_config
from model.provision.tensors import write_safetensors

_MAX_NAMED = 5  # missing tensors in one message


def load_network(folder: Path, *, dtype: torch.dtype = torch.float32) -> LoopedNetwork:
    """Return the reference network with the weights of a published checkpoint.

    int8 weights, as `loopwright model pull` makes them, are multiplied out; activations stay float.

    Raises:
        CheckpointError: its config or its tensors are not those of a family that is known, or it is quantised
            in another way.
    """
    published = read_config_file(folder)
    weights = read_tensors(folder)
    if "quantization_config" in published:
        if published["quantization_config"].get("format") != quantization_config()["format"]:
            raise CheckpointError(f"{folder} is quantised; the reference network computes in float")
        weights = dequantised_tensors(weights)
    adapter = adapter_for(published)
    tensors = {name: tensor.to(dtype) for name, tensor in checked_tensors(adapter, weights)}
    network = _empty_network(adapter.config)
    network.load_state_dict(tensors, strict=False, assign=True)
    if adapter.config.tie_word_embeddings:
        network.lm_head.weight = network.embed_tokens.weight
    return network.eval().requires_grad_(False)


def save_checkpoint(
    network: LoopedNetwork, folder: Path, *, token_ids: Mapping[str, int | None] | None = None
) -> Path:
    """Write config.json and model.safetensors in the family's published layout, and return `folder`.

    `token_ids` (`eos_token_id`, …) go into config.json. No tokenizer is written.

    Raises:
        CheckpointError: the published layout cannot say what this network is.
    """
    return write_checkpoint(network.config, network.state_dict(), folder, token_ids=token_ids)


def write_checkpoint(
    config: LoopedConfig,
    tensors: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    token_ids: Mapping[str, Any] | None = None,
) -> Path:
    """Write canonical tensors as `save_checkpoint` writes a network's."""
    adapter = adapter_for(config)
    published: dict[str, Any] = {**adapter.published_config(), **(token_ids or {})}
    published["dtype"] = str(tensors["embed_tokens.weight"].dtype).removeprefix("torch.")
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", adapter.published(tensors))
    # Last, so that a folder with a config is whole.
    (folder / "config.json").write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")
    return folder


def checked_tensors(
    adapter: Adapter, tensors: Iterable[tuple[str, torch.Tensor]], *, is_quantised: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield published tensors under canonical names, each as soon as it came and was found right.

    Of a quantised checkpoint only names are checked, since its shapes are its scheme's.

    Raises:
        CheckpointError: a tensor is unknown, comes twice, has another shape or holds NaN or infinity; after
            the last one, if some are missing. Names the tensor as the checkpoint does.
    """
    expected = {name: one.shape for name, one in _empty_network(adapter.config).named_parameters()}
    tied = _TiedHead(adapter.config)
    seen: set[str] = set()
    for published, tensor in tensors:
        tied.see(published, tensor)
        for name, part in adapter.canonical(published, tensor):
            if name in seen:
                raise CheckpointError(f"the checkpoint holds {published} twice")
            seen.add(name)
            if not is_quantised:
                _check(published, name, part, expected)
            yield name, part
    _check_all_there(adapter, set(expected) - seen, seen, is_quantised=is_quantised)


def _check(published: str, name: str, tensor: torch.Tensor, expected: Mapping[str, torch.Size]) -> None:
    if name not in expected:
        raise CheckpointError(f"extra tensor {published}: this config has no such part")
    if tensor.shape != expected[name]:
        raise CheckpointError(
            f"{published} gives {name} the shape {tuple(tensor.shape)}; the config asks for "
            f"{tuple(expected[name])}"
        )
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{published} is of type {tensor.dtype}", hint="Quantised weights need their engine."
        )
    if not torch.isfinite(tensor).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(f"{published} holds {count} values that are NaN or infinite")


def _check_all_there(adapter: Adapter, missing: set[str], seen: set[str], *, is_quantised: bool) -> None:
    if is_quantised:  # a weight may stand in several tensors of other names
        modules = {name.rpartition(".")[0] for name in seen}
        missing = {name for name in missing if name.rpartition(".")[0] not in modules}
    names = sorted({adapter.published_name(name) for name in missing})
    if names:
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        raise CheckpointError(f"the checkpoint lacks {', '.join(names[:_MAX_NAMED])}{more}")


class _TiedHead:
    """Compares a head that a tied checkpoint holds nevertheless with the embedding: both must be the same."""

    def __init__(self, config: LoopedConfig) -> None:
        self._is_tied = config.tie_word_embeddings
        self._head: torch.Tensor | None = None
        self._embedding: torch.Tensor | None = None

    def see(self, name: str, tensor: torch.Tensor) -> None:
        if not self._is_tied:
            return
        if name == "lm_head.weight":
            self._head = tensor
        elif name.endswith(("embed_tokens.weight", "wte.weight")):
            self._embedding = tensor
        if self._head is None or self._embedding is None:
            return
        if not torch.equal(self._head, self._embedding):
            raise CheckpointError(
                "lm_head.weight differs from the embedding, but config.json says they are tied"
            )
        self._head = self._embedding = None


def _empty_network(config: LoopedConfig) -> LoopedNetwork:
    with torch.device("meta"):
        return LoopedNetwork(config)
