"""Attention metadata for some rows of a batch, made from what a runner holds for all of them.

Shapes: R requests, T rows of the batch, A rows that run a pass, N blocks of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.worker.utils import AttentionGroup

from model.vllm_plugin.batch import Regrouped, segments

# Backends whose metadata own what they hold. Others (FlashInfer) plan in buffers that every further metadata
# of the step writes anew, and the layers behind the core still need the first.
_INDEPENDENT_BACKENDS = frozenset({"CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN"})


@dataclass(frozen=True, slots=True)
class BatchAttention:
    """What attention of a batch is made from; the same under both of vLLM's runners."""

    query_start_loc_R: np.ndarray  # first row of each request, and the number of rows (R + 1,)
    num_computed_R: np.ndarray  # tokens of each request that came before this batch
    positions_T: torch.Tensor
    block_tables: Sequence[torch.Tensor]  # (R, N) by cache group
    slot_mappings: Sequence[torch.Tensor]  # (T,) by cache group
    groups: Sequence[Sequence[AttentionGroup]]  # by cache group

    def regroup(self, rows_A: np.ndarray) -> Regrouped:
        """Return metadata and slot mappings by layer for these rows, in rising order."""
        runs = segments(rows_A, self.query_start_loc_R, self.num_computed_R)
        rows = self._on_device(rows_A)
        starts_cpu, lengths_cpu = torch.from_numpy(runs.query_start_loc), torch.from_numpy(runs.seq_lens)
        starts, lengths = starts_cpu.to(rows.device), lengths_cpu.to(rows.device)
        request = self._on_device(runs.request)
        metadata: dict[str, Any] = {}
        mappings: dict[str, torch.Tensor] = {}
        for table, mapping, groups in zip(self.block_tables, self.slot_mappings, self.groups, strict=False):
            common = CommonAttentionMetadata(
                query_start_loc=starts,
                query_start_loc_cpu=starts_cpu,
                seq_lens=lengths,
                seq_lens_cpu_upper_bound=lengths_cpu,
                num_reqs=len(runs.seq_lens),
                num_actual_tokens=len(rows_A),
                max_query_len=int(np.diff(runs.query_start_loc).max()),
                max_seq_len=int(runs.seq_lens.max()),
                block_table_tensor=table[request],
                slot_mapping=mapping[rows],
                positions=self.positions_T[rows],
            )
            for group in groups:
                built = group.build_metadata(common, 0)
                metadata |= dict.fromkeys(group.layer_names, built)
                mappings |= dict.fromkeys(group.layer_names, common.slot_mapping)
        return metadata, mappings

    def _on_device(self, x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x).to(self.positions_T.device)


def can_regroup(groups: Sequence[Sequence[AttentionGroup]]) -> bool:
    """Return whether a step may make further metadata beside the batch's own."""
    return all(
        # A group with blocks of its own size maps its tables in a buffer that persists, too.
        one.backend.get_name() in _INDEPENDENT_BACKENDS and one.kernel_block_size is None
        for of_cache in groups
        for one in of_cache
    )
