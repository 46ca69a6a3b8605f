"""Refuses a request of impossible depth or exit where vLLM admits requests, whichever way it came in.

vLLM's one public hook that sees a request's parameters in the front process is `validate_params` of a logits
processor. It does not know the engine's configuration, so what can be asked for is part of the class's name:
`model.vllm_plugin.admission:LoopUpTo4By_hazard_latent`. The class changes no logits. It implements the
interfaces of both model runners; each runner takes only its own.
"""

from __future__ import annotations

import functools
import re
from typing import Any, ClassVar

from vllm.v1.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from model.config import LoopedConfig
from model.requests import check_request

_NAME = re.compile(r"LoopUpTo([1-9][0-9]*)By((?:_[a-z]+)*)")


def admission_class(config: LoopedConfig) -> str:
    """Return the name under which vLLM loads the check of every request."""
    rules = "".join(f"_{rule}" for rule in config.exit_rules)
    return f"model.vllm_plugin.admission:LoopUpTo{config.max_recurrence_depth}By{rules}"


class LoopAdmission(LogitsProcessorV1, LogitsProcessorV2):
    """Checks the loop arguments of each request, and leaves its logits alone."""

    max_recurrence_depth: ClassVar[int]
    exit_rules: ClassVar[tuple[str, ...]]

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise DepthError when the request asks for what the engine cannot serve."""
        check_request(sampling_params.extra_args or {}, cls.max_recurrence_depth, cls.exit_rules)

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
def __getattr__(name: str) -> type[LoopAdmission]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    rules = tuple(match[2].split("_")[1:])
    return type(name, (LoopAdmission,), {"max_recurrence_depth": int(match[1]), "exit_rules": rules})
