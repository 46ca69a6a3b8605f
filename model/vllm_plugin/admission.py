"""Refuses a request of impossible depth where vLLM admits requests, whichever way it came in.

vLLM's one public hook that sees a request's parameters in the front process is `validate_params` of a logits
processor. It knows neither the engine's configuration nor the request's salt, so the largest depth is part of
the class's name: `model.vllm_plugin.admission:RecurrenceDepthUpTo4`. The class changes no logits. It
implements the interfaces of both model runners; each runner takes only its own.
"""

from __future__ import annotations

import functools
import re
from typing import Any, ClassVar

from vllm.v1.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from model.loop import DEPTH_KEY, check_depth

_NAME = re.compile(r"RecurrenceDepthUpTo([1-9][0-9]*)")


class DepthAdmission(LogitsProcessorV1, LogitsProcessorV2):
    """Checks the depth of each request, and leaves its logits alone."""

    max_recurrence_depth: ClassVar[int]

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise DepthError when the request names a depth that the engine cannot serve."""
        extra_args = sampling_params.extra_args or {}
        if DEPTH_KEY in extra_args:
            check_depth(extra_args[DEPTH_KEY], cls.max_recurrence_depth)

    def __init__(self, *_: Any) -> None:
        """Take and ignore either runner's arguments."""

    def apply(self, logits: Any, _context: Any = None) -> Any:
        """Return the logits as they are."""
        return logits

    def is_argmax_invariant(self) -> bool:
        """Return True, so that runner V1 skips `apply` for greedy requests."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Keep no state (runner V1)."""

    def add_request(self, _req_idx: int, _sampling_params: Any) -> bool:
        """Return False: no request's logits change (runner V2)."""
        return False


@functools.cache
def __getattr__(name: str) -> type[DepthAdmission]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return type(name, (DepthAdmission,), {"max_recurrence_depth": int(match[1])})
