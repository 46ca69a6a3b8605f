"""vLLM's CPU worker with a runner (V1) that tells the model how deep requests run and keeps their reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from model.exceptions import EngineSetupError
from model.requests import LoopRequest, loop_request
from model.vllm_plugin.batch import LoopBatch, exit_request, segments
from model.vllm_plugin.metrics import loop_metrics
from model.vllm_plugin.reports import REPORTS_ATTRIBUTE, LoopReport
from model.vllm_plugin.setup import METRICS_KEY


class LoopedCPUModelRunner(CPUModelRunner):
    """The stock runner, with the requests' loops among the model's arguments.

    They are read from the running requests at every step, so a preempted request that comes back, in whatever
    row, comes back at its depth.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device) -> None:
        super().__init__(vllm_config, device)
        self._reports: dict[str, LoopReport] = {}  # of running requests that want one, by id
        self.compacts_rows = True  # False: rows that are done run along, for comparison
        self._metrics = loop_metrics() if vllm_config.additional_config.get(METRICS_KEY) else None
        self._unsampled_states: dict[int, torch.Tensor] = {}

    def _init_model_kwargs(self, num_reqs: int | None = None) -> dict[str, Any]:
        kwargs = super()._init_model_kwargs(num_reqs)
        if num_reqs == 0:  # a profiling or warm-up run
            config = self.model.loop
            batch = LoopBatch.profiling(config.max_recurrence_depth, self.max_num_tokens)
            return {**kwargs, "loop_batch": batch}
        asked = self._asked()
        batch = LoopBatch(
            np.array([one.recurrence_depth for one in asked]),
            np.diff(self.query_start_loc.np[: len(asked) + 1]),
            [exit_request(one, self.model.loop) for one in asked],
            self._regroup if self.compacts_rows else None,
            self._metrics is not None or any(one.wants_report for one in asked),
        )
        return {**kwargs, "loop_batch": batch}

    def _asked(self) -> list[LoopRequest]:
        req_ids = self.input_batch.req_ids[: self.input_batch.num_reqs]
        params = (self.requests[req_id].sampling_params for req_id in req_ids)
        return [loop_request(one.extra_args if one else None, self.model.loop) for one in params]

    def _regroup(self, rows_A: np.ndarray) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        num_reqs = self.input_batch.num_reqs
        runs = segments(
            rows_A,
            self.query_start_loc.np[: num_reqs + 1],
            self.input_batch.num_computed_tokens_cpu[:num_reqs],
        )
        rows = torch.from_numpy(rows_A)
        metadata: dict[str, Any] = {}
        mappings: dict[str, torch.Tensor] = {}
        for group_id, groups in enumerate(self.attn_groups):
            table = self.input_batch.block_table[group_id]
            common = CommonAttentionMetadata(
                query_start_loc=torch.from_numpy(runs.query_start_loc),
                query_start_loc_cpu=torch.from_numpy(runs.query_start_loc),
                seq_lens=torch.from_numpy(runs.seq_lens),
                seq_lens_cpu_upper_bound=torch.from_numpy(runs.seq_lens),
                num_reqs=len(runs.seq_lens),
                num_actual_tokens=len(rows_A),
                max_query_len=int(np.diff(runs.query_start_loc).max()),
                max_seq_len=int(runs.seq_lens.max()),
                block_table_tensor=table.get_device_tensor(num_reqs)[torch.from_numpy(runs.request)],
                slot_mapping=table.slot_mapping.gpu[rows],
                positions=self.positions[rows],
            )
            for group in groups:
                built = group.build_metadata(common, 0)
                metadata |= dict.fromkeys(group.layer_names, built)
                mappings |= dict.fromkeys(group.layer_names, common.slot_mapping)
        return metadata, mappings

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._model_forward(*args, **kwargs)
        trace = getattr(self.model, "trace", None)
        if trace is not None:
            starts = self.query_start_loc.np
            if self._metrics is not None:
                self._metrics.add(trace)
            for i, (req_id, one) in enumerate(zip(self.input_batch.req_ids, self._asked(), strict=False)):
                if one.wants_report:
                    report = self._reports.setdefault(req_id, LoopReport())
                    report.add(trace, int(starts[i]), int(starts[i + 1]))
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Sample as the stock runner does, and send along what the loop has done to requests so far."""
        output = super().sample_tokens(grammar_output)
        if self._reports and isinstance(output, ModelRunnerOutput):
            reports = {
                one: self._reports[one].to_json_dict() for one in output.req_ids if one in self._reports
            }
            setattr(output, REPORTS_ATTRIBUTE, reports)
            self._reports = {one: report for one, report in self._reports.items() if one in self.requests}
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
