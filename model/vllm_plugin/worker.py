"""vLLM's CPU worker with a runner (V1) that hands each token's recurrence depth to the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from model.exceptions import EngineSetupError
from model.vllm_plugin.depths import TokenDepths, requested_depth


class LoopedCPUModelRunner(CPUModelRunner):
    """The stock runner, with depths among the model's arguments.

    They are read from the running requests at every step, so a preempted request that comes back, in whatever
    row, comes back at its depth.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device) -> None:
        super().__init__(vllm_config, device)
        self._token_depths = TokenDepths(self.max_num_tokens, device)
        self._unsampled_states: dict[int, torch.Tensor] = {}

    def _init_model_kwargs(self, num_reqs: int | None = None) -> dict[str, Any]:
        kwargs = super()._init_model_kwargs(num_reqs)
        if num_reqs == 0:  # a profiling or warm-up run
            return {**kwargs, **self._token_depths.for_dummy_batch(self.model.loop.max_recurrence_depth)}
        req_ids = self.input_batch.req_ids[: self.input_batch.num_reqs]
        depth_R = np.array([requested_depth(self.requests[req_id].sampling_params) for req_id in req_ids])
        num_tokens_R = np.diff(self.query_start_loc.np[: len(req_ids) + 1])
        return {**kwargs, **self._token_depths.for_batch(depth_R, num_tokens_R)}

    # A request whose prompt is not yet read to its end is sampled like the others and its token thrown away.
    # vLLM then turns its seeded generator back by an offset, which CPU generators do not have: without the
    # two methods below, a seeded prompt that is prefilled in chunks ends the engine.

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        rows = np.flatnonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])
        generators = self.input_batch.generators
        self._unsampled_states = {i: generators[i].get_state() for i in map(int, rows) if i in generators}
        return super()._sample(*args, **kwargs)

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        for i, state in self._unsampled_states.items():
            generators[i].set_state(state)
        self.input_batch.generators = {i: g for i, g in generators.items() if i not in self._unsampled_states}
        try:
            return super()._bookkeeping_sync(*args, **kwargs)
        finally:
            self.input_batch.generators = generators


class LoopedCPUWorker(CPUWorker):
    """The stock worker around that runner."""

    def init_device(self) -> None:
        """Set the device up as the stock worker does, then put the looped runner in its place.

        Raises:
            EngineSetupError: the engine was told to use runner V2, which does not run on a CPU.
        """
        if self.use_v2_model_runner:
            raise EngineSetupError(
                "the looped model runs on a CPU under model runner V1 only",
                hint="Unset VLLM_USE_V2_MODEL_RUNNER.",
            )
        super().init_device()
        self.model_runner = LoopedCPUModelRunner(self.vllm_config, self.device)
