"""From the depth of each request to the depth of each token, the form in which the model takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from model.loop import DEPTH_KEY


def requested_depth(sampling_params: Any) -> int:
    """Return the depth that an admitted request asks for; 1 when it names none or does not sample."""
    extra_args = getattr(sampling_params, "extra_args", None) or {}
    return int(extra_args.get(DEPTH_KEY, 1))


class TokenDepths:
    """A buffer that lives as long as its runner, so that a captured graph finds it where it was."""

    def __init__(self, max_num_tokens: int, device: torch.device) -> None:
        self._depth_T = torch.ones(max_num_tokens, dtype=torch.int32, device=device)

    def for_batch(self, depth_R: np.ndarray, num_tokens_R: np.ndarray) -> dict[str, Any]:
        """Return the model's keyword arguments for a batch of R requests; padding behind it has depth 1."""
        depth_T = np.repeat(depth_R.astype(np.int32), num_tokens_R)
        self._depth_T[: len(depth_T)].copy_(torch.from_numpy(depth_T))
        self._depth_T[len(depth_T) :].fill_(1)
        return self._kwargs(int(depth_R.max(initial=1)))

    def for_dummy_batch(self, deepest: int) -> dict[str, Any]:
        """Return the same arguments for a batch without requests, made to run `deepest` passes."""
        self._depth_T.fill_(deepest)
        return self._kwargs(deepest)

    def _kwargs(self, deepest: int) -> dict[str, Any]:
        return {"recurrence_depth": self._depth_T, "deepest_recurrence": deepest}
