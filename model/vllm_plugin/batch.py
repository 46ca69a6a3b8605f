"""What the loop needs to know of a batch: each request's depth and exits, and how to run some of its rows
alone.

Shapes: R requests, T rows (tokens) of the batch, A rows that run a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from vllm.forward_context import get_forward_context

from model.config import LoopedConfig
from model.exits import ExitRequest
from model.requests import LoopRequest

NOWHERE = -1  # vLLM's slot for keys and values that are not kept


Regrouped = tuple[dict[str, Any], dict[str, torch.Tensor]]


class Regroup(Protocol):
    """Makes attention metadata for some rows of the batch."""

    def __call__(self, rows_A: np.ndarray) -> Regrouped:
        """Return metadata and slot mappings by layer for these rows, in rising order."""


@dataclass(frozen=True, slots=True)
class LoopBatch:
    """A batch of requests, in the order of their rows. Rows behind the last one's are padding of depth 1."""

    depth_R: np.ndarray
    num_tokens_R: np.ndarray
    exits_R: Sequence[ExitRequest]
    regroup: Regroup | None = None  # None: rows that are done run along, and what they compute is not used
    wants_trace: bool = False
    _regrouped: dict[bytes, Regrouped] = field(default_factory=dict)  # several passes run the same rows

    @classmethod
    def of_requests(
        cls,
        asked: Sequence[LoopRequest],
        starts_R: np.ndarray,
        config: LoopedConfig,
        regroup: Regroup | None,
        wants_trace: bool,
    ) -> LoopBatch:
        """Return a batch of these requests.

        Args:
            asked: what each asks of the loop.
            starts_R: the first row of each, and the number of rows (R + 1,).
            config: the decoder.
            regroup: as the field.
            wants_trace: as the field.
        """
        return cls(
            np.array([one.recurrence_depth for one in asked]),
            np.diff(starts_R[: len(asked) + 1]),
            [_exit_request(one, config) for one in asked],
            regroup,
            wants_trace,
        )

    @classmethod
    def profiling(cls, depth: int, num_tokens: int) -> LoopBatch:
        """Return a batch without requests that runs as much as a batch may."""
        return cls(np.array([depth]), np.array([num_tokens]), [ExitRequest()])

    @property
    def deepest(self) -> int:
        """Return the largest depth; known on the host, so that nothing waits for a device."""
        return int(self.depth_R.max(initial=1))

    def regrouped(self, rows_A: np.ndarray) -> Regrouped:
        """Return metadata and slot mappings by layer for these rows, in rising order."""
        assert self.regroup is not None
        key = rows_A.tobytes()
        if key not in self._regrouped:
            self._regrouped[key] = self.regroup(rows_A)
        return self._regrouped[key]

    def depth_of_rows(self, num_rows: int) -> np.ndarray:
        """Return each row's depth (T,)."""
        depth_T = np.repeat(self.depth_R, self.num_tokens_R)[:num_rows]  # a profiling run may be smaller
        return np.pad(depth_T, (0, num_rows - len(depth_T)), constant_values=1)

    def exits_of_rows(self, num_rows: int) -> list[ExitRequest]:
        """Return each row's exit request."""
        per_row = [one for one, n in zip(self.exits_R, self.num_tokens_R, strict=True) for _ in range(n)]
        return (per_row + [ExitRequest()] * (num_rows - len(per_row)))[:num_rows]


def _exit_request(request: LoopRequest, config: LoopedConfig) -> ExitRequest:
    """Return when a request's rows stop early, for the exits of a batch."""
    min_depth = min(config.min_recurrence_depth, request.recurrence_depth)
    return ExitRequest(request.exit_rule, request.exit_threshold, min_depth)


@contextmanager
def only_rows(batch: LoopBatch, rows_A: np.ndarray, num_rows: int) -> Iterator[bool]:
    """Let attention see these rows alone; yield whether it expects them gathered, or all of the batch.

    Where all rows run, nothing changes. Without `regroup` all rows attend, and those not named write nowhere.
    """
    context = get_forward_context()
    if len(rows_A) == num_rows or not context.attn_metadata:
        yield False
        return
    kept = context.attn_metadata, context.slot_mapping
    try:
        if batch.regroup is not None:
            context.attn_metadata, context.slot_mapping = batch.regrouped(rows_A)
            yield True
        else:
            context.slot_mapping = _silenced(context.slot_mapping, rows_A)
            yield False
    finally:
        context.attn_metadata, context.slot_mapping = kept


def _silenced(mappings: Mapping[str, torch.Tensor], rows_A: np.ndarray) -> dict[str, torch.Tensor]:
    by_tensor: dict[int, torch.Tensor] = {}  # layers of one cache group share theirs
    for mapping in mappings.values():
        if id(mapping) not in by_tensor:
            silenced = torch.full_like(mapping, NOWHERE)
            rows = torch.from_numpy(rows_A).to(mapping.device)
            silenced[rows] = mapping[rows]
            by_tensor[id(mapping)] = silenced
    return {name: by_tensor[id(mapping)] for name, mapping in mappings.items()}


@dataclass(frozen=True, slots=True)
class Segments:
    """Rows of a batch as runs of neighbours, each of which attention takes for a query of its own."""

    query_start_loc: np.ndarray  # (S + 1,), int32
    seq_lens: np.ndarray  # (S,), int32: tokens that the run's last row sees
    request: np.ndarray  # (S,), int64: whose the run is


def segments(rows_A: np.ndarray, query_start_loc_R: np.ndarray, num_computed_R: np.ndarray) -> Segments:
    """Return the runs of neighbouring rows of one request.

    A causal query is the end of a sequence, so any run of neighbours is a query of the sequence that ends
    with it. Its earlier tokens are in the cache: they were written before, or by this very pass.

    Args:
        rows_A: rows in rising order, at least one.
        query_start_loc_R: first row of each request, and the number of rows (R + 1,).
        num_computed_R: tokens of each request that came before this batch.
    """
    request_A = np.searchsorted(query_start_loc_R, rows_A, side="right") - 1
    position_A = num_computed_R[request_A] + rows_A - query_start_loc_R[request_A]
    is_break = (np.diff(rows_A) != 1) | (np.diff(request_A) != 0)
    first = np.concatenate([[0], np.flatnonzero(is_break) + 1])
    last = np.append(first[1:], len(rows_A)) - 1
    return Segments(
        np.append(first, len(rows_A)).astype(np.int32),
        (position_A[last] + 1).astype(np.int32),
        request_A[first],
    )
