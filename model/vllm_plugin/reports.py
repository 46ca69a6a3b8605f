"""What the loop did to each row of a batch, and summed for each request, so that divergence is seen.

Both of vLLM's runners keep a `LoopReporter` where the model runs; its reports travel to the scheduler with a
step's tokens.

Shapes: L passes, T rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.exits import relative_change
from model.requests import LoopRequest

if TYPE_CHECKING:
    from model.vllm_plugin.metrics import LoopMetrics

REPORTS_ATTRIBUTE = (
    "loop_reports"  # of a ModelRunnerOutput: reports by request, from the runner to the scheduler
)


class LoopTrace:
    """Depth used, change of the state and its size, by pass and row of one batch."""

    def __init__(self, num_passes: int, num_rows: int) -> None:
        self.change_LT = np.full((num_passes, num_rows), np.nan, dtype=np.float32)
        self.rms_LT = np.full((num_passes, num_rows), np.nan, dtype=np.float32)
        self.depth_T = np.zeros(num_rows, dtype=np.int64)

    def add(self, k: int, rows_A: np.ndarray, before_AD: torch.Tensor, after_AD: torch.Tensor) -> None:
        """Note what pass `k` did to these rows."""
        self.change_LT[k, rows_A] = relative_change(before_AD, after_AD).cpu().numpy()
        self.rms_LT[k, rows_A] = after_AD.float().square().mean(-1).sqrt().cpu().numpy()


@dataclass(slots=True)
class LoopReport:
    """The same of one request, prompt and answer together."""

    depth_counts: dict[int, int] = field(default_factory=dict)  # tokens by the passes that they took
    change_sums: list[float] = field(default_factory=list)  # by pass
    rms_sums: list[float] = field(default_factory=list)
    num_rows: list[int] = field(default_factory=list)  # that ran each pass

    def add(self, trace: LoopTrace, start: int, stop: int) -> None:
        """Add what a batch did to the request's rows."""
        for depth, count in zip(*np.unique(trace.depth_T[start:stop], return_counts=True), strict=True):
            self.depth_counts[int(depth)] = self.depth_counts.get(int(depth), 0) + int(count)
        for k in range(len(trace.change_LT)):
            change_A, rms_A = trace.change_LT[k, start:stop], trace.rms_LT[k, start:stop]
            ran_A = ~np.isnan(rms_A)
            if not ran_A.any():
                return
            if k == len(self.num_rows):
                self.num_rows.append(0)
                self.change_sums.append(0.0)
                self.rms_sums.append(0.0)
            self.num_rows[k] += int(ran_A.sum())
            self.change_sums[k] += float(change_A[ran_A].sum())
            self.rms_sums[k] += float(rms_A[ran_A].sum())

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain values: tokens by depth, and means over tokens by pass."""
        return {
            "depth_counts": {str(depth): count for depth, count in sorted(self.depth_counts.items())},
            "latent_change": [one / n for one, n in zip(self.change_sums, self.num_rows, strict=True)],
            "hidden_rms": [one / n for one, n in zip(self.rms_sums, self.num_rows, strict=True)],
        }


class LoopReporter:
    """Keeps the reports of running requests that want one, and counts every token where there are metrics."""

    def __init__(self, metrics: LoopMetrics | None) -> None:
        self._metrics = metrics
        self._by_request: dict[str, LoopReport] = {}
        self._rows: list[tuple[str, int, int]] = []  # of the batch's requests that want a report: first, last
        self._num_rows = 0

    def expect(self, req_ids: Sequence[str], starts_R: np.ndarray, asked: Sequence[LoopRequest]) -> bool:
        """Take note of the batch that runs next, and return whether a trace of it is wanted."""
        self._rows = [
            (req_id, int(starts_R[i]), int(starts_R[i + 1]))
            for i, (req_id, one) in enumerate(zip(req_ids, asked, strict=False))
            if one.wants_report
        ]
        self._num_rows = int(starts_R[len(asked)])
        return bool(self._rows) or self._metrics is not None

    def add(self, trace: LoopTrace) -> None:
        """Take what that batch did."""
        if self._metrics is not None:
            self._metrics.add(trace, self._num_rows)
        for req_id, start, stop in self._rows:
            self._by_request.setdefault(req_id, LoopReport()).add(trace, start, stop)

    def send_with(self, output: Any) -> None:
        """Lay the reports so far beside the tokens of a ModelRunnerOutput."""
        if self._rows:
            ids = [req_id for req_id, _, _ in self._rows if req_id in self._by_request]
            setattr(output, REPORTS_ATTRIBUTE, {one: self._by_request[one].to_json_dict() for one in ids})

    def forget(self, req_id: str) -> None:
        """Drop the report of a request that left."""
        self._by_request.pop(req_id, None)
