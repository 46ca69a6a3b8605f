"""vLLM's runner V2 (CUDA) asks a model for its per-request state: what each request asks of the loop, and how
to make attention metadata for some rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.utils import AttentionGroup

from model.config import LoopedConfig
from model.requests import LoopRequest, loop_request
from model.vllm_plugin.batch import LoopBatch, Regroup
from model.vllm_plugin.metrics import metrics_of
from model.vllm_plugin.regroup import BatchAttention, can_regroup
from model.vllm_plugin.reports import LoopReporter

logger = init_logger(__name__)


class LoopedModelState(DefaultModelState):
    """The default state, with the requests' loops among the model's arguments.

    A request is removed when it is preempted, too, and added again when it comes back.
    """

    def __init__(
        self, vllm_config: VllmConfig, model: nn.Module, encoder_cache: Any, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self._loop: LoopedConfig = model.loop  # type: ignore[assignment]
        self._asked: dict[str, LoopRequest] = {}  # by request id
        self._attention: tuple[Any, BatchAttention] | None = None  # of the batch that it names
        self.reporter = LoopReporter(metrics_of(vllm_config))
        self.compacts_rows = True  # False: rows that are done run along, for comparison

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Note what a request asks for."""
        super().add_request(req_index, new_req_data)
        extra_args = getattr(new_req_data.sampling_params, "extra_args", None)
        self._asked[new_req_data.req_id] = loop_request(extra_args, self._loop)

    def remove_request(self, req_id: str) -> None:
        """Forget a request that has finished, or that starts anew after a preemption."""
        super().remove_request(req_id)
        self._asked.pop(req_id, None)
        self.reporter.forget(req_id)

    def prepare_attn(
        self,
        input_batch: Any,
        cudagraph_mode: Any,
        block_tables: tuple[torch.Tensor, ...],
        slot_mappings: torch.Tensor,
        attn_groups: list[list[AttentionGroup]],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the metadata of the whole batch, and keep what those of some rows are made from."""
        num_reqs = input_batch.num_reqs
        attention = BatchAttention(
            input_batch.query_start_loc_np[: num_reqs + 1],
            input_batch.num_computed_tokens_np[:num_reqs],
            input_batch.positions,
            block_tables,
            list(slot_mappings),
            attn_groups,
        )
        self._attention = (input_batch, attention)
        return super().prepare_attn(
            input_batch, cudagraph_mode, block_tables, slot_mappings, attn_groups, *args, **kwargs
        )

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Return the model's extra arguments for a batch."""
        unknown = loop_request(None, self._loop)  # of dummy runs
        asked = [self._asked.get(one, unknown) for one in input_batch.req_ids[: input_batch.num_reqs]]
        starts_R = input_batch.query_start_loc_np
        wants_trace = self.reporter.expect(input_batch.req_ids, starts_R, asked)
        batch = LoopBatch.of_requests(asked, starts_R, self._loop, self._regroup(input_batch), wants_trace)
        return {**super().prepare_inputs(input_batch, req_states), "loop_batch": batch}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """Return the same arguments for profiling, which must hold every pass."""
        batch = LoopBatch.profiling(self._loop.max_recurrence_depth, num_tokens)
        return {**super().prepare_dummy_inputs(num_reqs, num_tokens), "loop_batch": batch}

    def _regroup(self, input_batch: Any) -> Regroup | None:
        """Return nothing where rows that are done must run along; a batch without attention is a dummy."""
        if self._attention is None or self._attention[0] is not input_batch or not self.compacts_rows:
            return None
        attention = self._attention[1]
        if can_regroup(attention.groups):
            return attention.regroup
        logger.warning_once(_no_compaction(attention.groups))
        return None


def _no_compaction(groups: Sequence[Sequence[AttentionGroup]]) -> str:
    names = sorted({one.backend.get_name() for of_cache in groups for one in of_cache})
    return (
        f"Rows that are done run along with attention backend {', '.join(names)}: it keeps one batch's plan "
        "at a time. With FLASH_ATTN (--attention-backend) they leave, and cost follows depth."
    )
