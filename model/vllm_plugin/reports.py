"""What the loop did to each row of a batch, and summed for each request, so that divergence is seen.

Shapes: L passes, T rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from model.exits import relative_change

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
