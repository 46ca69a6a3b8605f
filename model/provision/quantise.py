"""int8 W8A8, compressed-tensors layout: symmetric weights, rounded to nearest, one scale per output channel.

Activations are quantised by the engine as it runs, with one scale per token; embeddings, norms and biases
stay in float. A head that is tied to the embedding is written out by itself: in a small model it is the
largest matrix that each token reads, and as int8 it is a quarter of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

INT8_MAX = 127  # -128 is left unused, so that the range is symmetric
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def untied(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor in turn, and the embedding a second time, as the head."""
    for name, tensor in tensors:
        yield name, tensor
        if name == EMBEDDING:
            yield HEAD, tensor


def quantise_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor in turn, each linear layer's weight as int8 `weight` and float32 `weight_scale`."""
    for name, tensor in tensors:
        if is_quantised(name):
            weight_OI, scale_O1 = quantise_per_channel(tensor)
            yield f"{name}_scale", scale_O1
            yield name, weight_OI
        else:
            yield name, tensor


def dequantised_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what `quantise_tensors` was given, as far as int8 held it: each weight times its scale."""
    halves: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        weight = name.removesuffix("_scale")
        if not is_quantised(weight):
            yield name, tensor
        elif weight in halves:
            yield weight, halves.pop(weight).float() * tensor.float()
        else:
            halves[weight] = tensor
    yield from halves.items()  # without its other half a weight is refused by whoever checks them


def is_quantised(name: str) -> bool:
    """Return whether the tensor is the weight of a linear layer in a transformer block, or of the head."""
    return name.endswith("_proj.weight") or name == HEAD


def quantise_per_channel(weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the int8 weight (O, I) and the float32 scale (O, 1) whose product is nearest to `weight_OI`."""
    import torch

    weight_OI = weight_OI.float()
    amax_O1 = weight_OI.abs().amax(dim=1, keepdim=True)
    # A row of zeros keeps a scale above zero, so that nothing is divided by it.
    scale_O1 = (amax_O1 / INT8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    quantised_OI = (weight_OI / scale_O1).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
    return quantised_OI, scale_O1


def quantization_config() -> dict[str, Any]:
    """Return what config.json says of this layout."""
    scheme = {"num_bits": 8, "type": "int", "symmetric": True, "group_size": None, "actorder": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": [],
        "kv_cache_scheme": None,
        "config_groups": {
            "group_0": {
                "targets": ["Linear", "re:.*lm_head$"],  # vLLM's head is no Linear
                "weights": {**scheme, "strategy": "channel", "dynamic": False, "observer": "minmax"},
                "input_activations": {**scheme, "strategy": "token", "dynamic": True, "observer": None},
                "output_activations": None,
            }
        },
    }
