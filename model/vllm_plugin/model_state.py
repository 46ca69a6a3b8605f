"""vLLM's runner V2 (CUDA) asks a model for its per-request state: here, the recurrence depth of each slot."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from model.loop import LoopConfig
from model.vllm_plugin.depths import TokenDepths, requested_depth


class LoopedModelState(DefaultModelState):
    """The default state, with depths among the model's arguments.

    A slot outlives its request: every request that enters one writes its depth, also when it names none, and
    so does a preempted request that comes back.
    """

    def __init__(
        self, vllm_config: VllmConfig, model: nn.Module, encoder_cache: Any, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        loop: LoopConfig = model.loop  # type: ignore[assignment]
        self._max_recurrence_depth = loop.max_recurrence_depth
        self._depth_of_slot = np.ones(self.max_num_reqs, dtype=np.int32)
        self._token_depths = TokenDepths(self.max_num_tokens, device)

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Note the depth of the request that enters slot `req_index`."""
        super().add_request(req_index, new_req_data)
        self._depth_of_slot[req_index] = requested_depth(new_req_data.sampling_params)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Return the model's extra arguments for a batch."""
        num_reqs = input_batch.num_reqs
        depth_R = self._depth_of_slot[input_batch.idx_mapping_np[:num_reqs]]
        num_tokens_R = np.diff(input_batch.query_start_loc_np[: num_reqs + 1])
        return {
            **super().prepare_inputs(input_batch, req_states),
            **self._token_depths.for_batch(depth_R, num_tokens_R),
        }

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """Return the same arguments for profiling and graph capture, which must hold every pass."""
        return {
            **super().prepare_dummy_inputs(num_reqs, num_tokens),
            **self._token_depths.for_dummy_batch(self._max_recurrence_depth),
        }
