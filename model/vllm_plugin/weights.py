"""From a checkpoint's tensors to the names of the served model, one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from model.checkpoints import adapter_for
from model.checkpoints.loading import checked_tensors
from model.config import LoopedConfig


def served_tensors(
    config: LoopedConfig, weights: Iterable[tuple[str, torch.Tensor]], *, is_quantised: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a published checkpoint's tensors under the served model's names, for `AutoWeightsLoader`.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape, or holds NaN; by its published name.
    """
    for name, tensor in checked_tensors(adapter_for(config), weights, is_quantised=is_quantised):
        yield (name if name.startswith("lm_head.") else f"model.{name}"), tensor
