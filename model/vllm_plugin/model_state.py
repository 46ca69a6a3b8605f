"""vLLM's runner V2 (CUDA) asks a model for its per-request state: what each request asks of the loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from model.config import LoopedConfig
from model.requests import LoopRequest, loop_request
from model.vllm_plugin.batch import LoopBatch, exit_request


class LoopedModelState(DefaultModelState):
    """The default state, with the requests' loops among the model's arguments.

    A slot outlives its request: every request that enters one writes what it asks for, also when it asks for
    nothing, and so does a preempted request that comes back. Rows that are done run along masked: this runner
    gives a model no way to make attention metadata for some rows.
    """

    def __init__(
        self, vllm_config: VllmConfig, model: nn.Module, encoder_cache: Any, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self._loop: LoopedConfig = model.loop  # type: ignore[assignment]
        self._of_slot: list[LoopRequest] = [loop_request(None, self._loop)] * self.max_num_reqs

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Note what the request that enters slot `req_index` asks for."""
        super().add_request(req_index, new_req_data)
        extra_args = getattr(new_req_data.sampling_params, "extra_args", None)
        self._of_slot[req_index] = loop_request(extra_args, self._loop)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Return the model's extra arguments for a batch."""
        num_reqs = input_batch.num_reqs
        asked = [self._of_slot[slot] for slot in input_batch.idx_mapping_np[:num_reqs]]
        batch = LoopBatch(
            np.array([one.recurrence_depth for one in asked]),
            np.diff(input_batch.query_start_loc_np[: num_reqs + 1]),
            [exit_request(one, self._loop) for one in asked],
        )
        return {**super().prepare_inputs(input_batch, req_states), "loop_batch": batch}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """Return the same arguments for profiling, which must hold every pass."""
        batch = LoopBatch.profiling(self._loop.max_recurrence_depth, num_tokens)
        return {**super().prepare_dummy_inputs(num_reqs, num_tokens), "loop_batch": batch}
