"""vLLM's CPU worker with a runner (V1) that tells the model how deep requests run and keeps their reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from model.exceptions import EngineSetupError
from model.requests import loop_request
from model.vllm_plugin.batch import LoopBatch, Regroup
from model.vllm_plugin.metrics import metrics_of
from model.vllm_plugin.regroup import BatchAttention, can_regroup
from model.vllm_plugin.reports import LoopReporter


class LoopedCPUModelRunner(CPUModelRunner):
    """The stock runner, with the requests' loops among the model's arguments.

    They are read from the running requests at every step, so a preempted request that comes back, in whatever
    row, comes back at its depth.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device) -> None:
        super().__init__(vllm_config, device)
        self._reporter = LoopReporter(metrics_of(vllm_config))
        self.compacts_rows = True  # False: rows that are done run along, for comparison
        self._unsampled_states: dict[int, torch.Tensor] = {}

    def _init_model_kwargs(self, num_reqs: int | None = None) -> dict[str, Any]:
        kwargs = super()._init_model_kwargs(num_reqs)
        config = self.model.loop
        if num_reqs == 0:  # a profiling or warm-up run
            batch = LoopBatch.profiling(config.max_recurrence_depth, self.max_num_tokens)
            return {**kwargs, "loop_batch": batch}
        req_ids = self.input_batch.req_ids[: self.input_batch.num_reqs]
        params = (self.requests[req_id].sampling_params for req_id in req_ids)
        asked = [loop_request(one.extra_args if one else None, config) for one in params]
        starts_R = self.query_start_loc.np[: len(asked) + 1]
        wants_trace = self._reporter.expect(req_ids, starts_R, asked)
        batch = LoopBatch.of_requests(asked, starts_R, config, self._regroup(starts_R), wants_trace)
        return {**kwargs, "loop_batch": batch}

    def _regroup(self, starts_R: np.ndarray) -> Regroup | None:
        if not (self.compacts_rows and can_regroup(self.attn_groups)):
            return None
        num_reqs = len(starts_R) - 1
        tables = [self.input_batch.block_table[i] for i in range(len(self.attn_groups))]
        return BatchAttention(
            starts_R,
            self.input_batch.num_computed_tokens_cpu[:num_reqs],
            self.positions,
            [one.get_device_tensor(num_reqs) for one in tables],
            [one.slot_mapping.gpu for one in tables],
            self.attn_groups,
        ).regroup

    def _update_states(self, scheduler_output: Any) -> Any:
        for req_id in scheduler_output.finished_req_ids:
            self._reporter.forget(req_id)
        return super()._update_states(scheduler_output)

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._model_forward(*args, **kwargs)
        if self.model.trace is not None:
            self._reporter.add(self.model.trace)
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Sample as the stock runner does, and send along what the loop has done to requests so far."""
        output = super().sample_tokens(grammar_output)
        if isinstance(output, ModelRunnerOutput):
            self._reporter.send_with(output)
        return output

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

    def compact_rows(self, is_on: bool) -> None:
        """Switch between rows leaving the batch and rows running along masked; for `collective_rpc`."""
        self.model_runner.compacts_rows = is_on
