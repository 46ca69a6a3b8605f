"""Writes a safetensors file tensor by tensor, so that a conversion never holds more than one tensor.

The library's own writer wants all tensors in memory at once. Format: an 8-byte little-endian header length,
a JSON header (may be padded with spaces), then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from model.exceptions import ModelError

if TYPE_CHECKING:
    import torch

# The header's length must be known before the first tensor; a tensor's entry takes about 120 bytes.
_HEADER_BYTES = 1 << 20
_DTYPE_NAMES = {
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int8": "I8",
}


def write_safetensors(path: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write the tensors in the order in which they come, flushed to disk.

    Raises:
        ModelError: a tensor would lie where its dtype may not start, or there are too many.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    with path.open("wb") as file:
        file.seek(8 + _HEADER_BYTES)
        for name, tensor in tensors:
            if offset % tensor.element_size():
                raise ModelError(f"tensor {name} would start at byte {offset}, unaligned for {tensor.dtype}")
            size = tensor.numel() * tensor.element_size()
            entries[name] = {
                "dtype": _DTYPE_NAMES[str(tensor.dtype)],
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + size],
            }
            file.write(_bytes(tensor))
            offset += size
        header = json.dumps(entries, separators=(",", ":")).encode()
        if len(header) > _HEADER_BYTES:
            raise ModelError(f"{len(entries)} tensors do not fit the header of {path.name}")
        file.seek(0)
        file.write(_HEADER_BYTES.to_bytes(8, "little") + header.ljust(_HEADER_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    # By way of uint8, because numpy has no bfloat16.
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
