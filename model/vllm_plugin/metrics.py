"""The loop as Prometheus metrics, in the process of the worker.

With vLLM's engine in the process of its server they stand on the server's own page; with an engine process of
its own they do where PROMETHEUS_MULTIPROC_DIR is set, which vLLM's page then collects from.
Overthinking shows as passes whose change no longer falls, divergence as a growing root mean square.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from prometheus_client import Counter, Histogram
from vllm.config import VllmConfig

from model.vllm_plugin.reports import LoopTrace
from model.vllm_plugin.setup import METRICS_KEY

_CHANGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_SIZES = (0.01, 0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)


class LoopMetrics:
    """Counts tokens by passes taken, and what each pass did."""

    def __init__(self) -> None:
        self._tokens = Counter(
            "loopwright_loop_tokens", "Tokens by the passes after which their state was taken", ["depth"]
        )
        self._change = Histogram(
            "loopwright_loop_latent_change",
            "Relative change of a token's state in a pass",
            ["loop"],
            buckets=_CHANGES,
        )
        self._rms = Histogram(
            "loopwright_loop_hidden_rms",
            "Root mean square of a token's state after a pass",
            ["loop"],
            buckets=_SIZES,
        )

    def add(self, trace: LoopTrace, num_rows: int) -> None:
        """Count what a batch did to its first rows; those behind are padding."""
        for depth, count in zip(*np.unique(trace.depth_T[:num_rows], return_counts=True), strict=True):
            self._tokens.labels(depth=int(depth)).inc(int(count))
        passes = zip(trace.change_LT[:, :num_rows], trace.rms_LT[:, :num_rows], strict=True)
        for k, (change_T, rms_T) in enumerate(passes, start=1):
            for one in change_T[~np.isnan(change_T)]:
                self._change.labels(loop=k).observe(float(one))
            for one in rms_T[~np.isnan(rms_T)]:
                self._rms.labels(loop=k).observe(float(one))


def metrics_of(vllm_config: VllmConfig) -> LoopMetrics | None:
    """Return this process's metrics where the engine keeps some; of tensor-parallel ranks the first does."""
    is_kept = vllm_config.additional_config.get(METRICS_KEY) and vllm_config.parallel_config.rank == 0
    return _loop_metrics() if is_kept else None


@cache
def _loop_metrics() -> LoopMetrics:
    """Return the one set of metrics; Prometheus takes each name once a process."""
    return LoopMetrics()
