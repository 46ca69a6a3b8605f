"""A CPU worker whose batches runner V2's state makes: what CUDA would be told, run by attention of a CPU.

Runner V2 itself needs CUDA. Everything of ours under it stands here: requests that come and go, the metadata
of the whole batch by vLLM's own code for V2, and those of the rows that a pass runs.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.forward_context import get_forward_context

from model.vllm_plugin.batch import Regroup, Regrouped
from model.vllm_plugin.model_state import LoopedModelState
from model.vllm_plugin.worker import LoopedCPUModelRunner, LoopedCPUWorker


class StateDrivenRunner(LoopedCPUModelRunner):
    """Runner V1 with the model's arguments, and the metadata of all rows, from `LoopedModelState`."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        self.state = LoopedModelState(self.vllm_config, self.model, None, self.device)
        self._reporter = self.state.reporter  # which this runner sends from
        self._known: set[str] = set()
        self.num_rows_of_passes: list[int] = []  # that some rows had left before

    def _update_states(self, scheduler_output: Any) -> Any:
        gone = scheduler_output.finished_req_ids | (scheduler_output.preempted_req_ids or set())
        for req_id in gone & self._known:
            self.state.remove_request(req_id)
        self._known -= gone
        return super()._update_states(scheduler_output)

    def _init_model_kwargs(self, num_reqs: int | None = None) -> dict[str, Any]:
        kwargs = super()._init_model_kwargs(num_reqs)
        if num_reqs == 0:  # a profiling run
            return kwargs
        for slot, req_id in enumerate(self.input_batch.req_ids):
            if req_id not in self._known:
                params = self.requests[req_id].sampling_params
                self.state.add_request(slot, SimpleNamespace(req_id=req_id, sampling_params=params))
                self._known.add(req_id)
        self.state.compacts_rows = self.compacts_rows
        batch = self.state.prepare_inputs(self._as_v2_batch(), None)["loop_batch"]
        return {**kwargs, "loop_batch": replace(batch, regroup=self._counting(batch.regroup))}

    def _counting(self, regroup: Regroup | None) -> Regroup | None:
        def count(rows_A: np.ndarray) -> Regrouped:
            assert regroup is not None
            self.num_rows_of_passes.append(len(rows_A))
            return regroup(rows_A)

        return None if regroup is None else count

    def _as_v2_batch(self) -> SimpleNamespace:
        num_reqs = self.input_batch.num_reqs
        starts_R = self.query_start_loc.np[: num_reqs + 1].copy()
        computed_R = self.input_batch.num_computed_tokens_cpu[:num_reqs].copy()
        lengths = torch.from_numpy((computed_R + np.diff(starts_R)).astype(np.int32))
        batch = SimpleNamespace(
            req_ids=list(self.input_batch.req_ids),
            num_reqs=num_reqs,
            num_tokens=int(starts_R[-1]),
            idx_mapping_np=np.arange(num_reqs),
            num_scheduled_tokens=np.diff(starts_R),
            query_start_loc=torch.from_numpy(starts_R),
            query_start_loc_np=starts_R,
            max_query_len=None,
            seq_lens=lengths,
            seq_lens_cpu_upper_bound=lengths,
            dcp_local_seq_lens=None,
            dcp_local_seq_lens_cpu_upper_bound=None,
            num_computed_tokens_np=computed_R,
            is_prefilling_np=np.zeros(num_reqs, dtype=bool),
            positions=self.positions[: int(starts_R[-1])],
            prompt_lens=None,
            fast_prefill=None,
        )
        tables = [self.input_batch.block_table[i] for i in range(len(self.attn_groups))]
        self._metadata = self.state.prepare_attn(
            batch,
            CUDAGraphMode.NONE,
            tuple(one.get_device_tensor(num_reqs) for one in tables),
            torch.stack([one.slot_mapping.gpu[: batch.num_tokens] for one in tables]),
            self.attn_groups,
            self.kv_cache_config,
        )
        return batch

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        context = get_forward_context()
        if context.attn_metadata:  # no profiling run
            context.attn_metadata = self._metadata
        return super()._model_forward(*args, **kwargs)


class StateDrivenWorker(LoopedCPUWorker):
    """The looped worker around that runner."""

    def init_device(self) -> None:
        super().init_device()
        self.model_runner = StateDrivenRunner(self.vllm_config, self.device)

    def take_rows_of_passes(self) -> list[int]:
        """Return how many rows ran in each pass that others had left, since the last call."""
        taken, self.model_runner.num_rows_of_passes = self.model_runner.num_rows_of_passes, []
        return taken
