"""The loop as Prometheus metrics, in the process of the worker.

With vLLM's engine in the process of its server they stand on the server's own page; with an engine process of
its own they do where PROMETHEUS_MULTIPROC_DIR is set, which vLLM's page then collects from.
Overthinking shows as passes whose change no longer falls, divergence as a growing root mean square.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from prometheus_client import Counter, Histogram

from model.vllm_plugin.reports import LoopTrace

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

    def add(self, trace: LoopTrace) -> None:
        """Count what a batch did."""
        for depth, count in zip(*np.unique(trace.depth_T, return_counts=True), strict=True):
            self._tokens.labels(depth=int(depth)).inc(int(count))
        for k, (change_T, rms_T) in enumerate(zip(trace.change_LT, trace.rms_LT, strict=True), start=1):
            for one in change_T[~np.isnan(change_T)]:
                self._change.labels(loop=k).observe(float(one))
            for one in rms_T[~np.isnan(rms_T)]:
                self._rms.labels(loop=k).observe(float(one))


@cache
def loop_metrics() -> LoopMetrics:
    """Return this process's metrics; Prometheus takes each name once."""
    return LoopMetrics()
