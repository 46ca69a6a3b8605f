"""How to start a vLLM engine for a looped model, and what every request to it must carry.

Both halves come from the same `LoopConfig`:

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=path, **engine_kwargs(loop)))
    request = request_kwargs(loop, depth)
    engine.generate(
        {"prompt": text, "cache_salt": request.cache_salt},
        SamplingParams(extra_args=request.extra_args), request_id)

A request that names no depth runs at depth 1. One that names an impossible depth is refused where vLLM admits
requests, before it reaches any batch, also over vLLM's own HTTP server (`vllm_xargs`, answered with 400).

Prefix cache: keys and values depend on the depth, and vLLM keeps blocks apart by `cache_salt` alone. The
depth and its salt therefore leave `request_kwargs` together. Whoever drives the engine without this module,
by HTTP for example, must send both: a request of depth 2 without its salt may read blocks that a request of
another depth wrote, and gets an answer that is neither depth's. vLLM's admission hook does not see the
salt, so nothing here can refuse such a request; an engine open to such clients should run with
`enable_prefix_caching=False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.exceptions import EngineSetupError
from model.loop import DEPTH_KEY, LoopConfig

ARCHITECTURE = "LoopedQwen2ForCausalLM"
LOOP_KEY = "loopwright_loop"  # in the checkpoint's config, beside vLLM's own settings
CPU_WORKER_CLS = "model.vllm_plugin.worker.LoopedCPUWorker"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKwargs:
    """What one request must carry, in the two places where vLLM looks for it."""

    recurrence_depth: int  # as checked
    extra_args: dict[str, Any]  # for SamplingParams
    cache_salt: str  # for the prompt


def engine_kwargs(loop: LoopConfig) -> dict[str, Any]:
    """Return the arguments that turn a Qwen2 checkpoint into a looped model, for `AsyncEngineArgs` or `LLM`.

    They hold `hf_overrides`, `logits_processors` and `enforce_eager`, and on a CPU `worker_cls`; a caller
    with values of its own under these names must merge them. Eager, because the number of passes differs
    from batch to batch, and compilation would keep the first one's.
    """
    from vllm.platforms import current_platform

    settings: dict[str, Any] = {
        "hf_overrides": {"architectures": [ARCHITECTURE], LOOP_KEY: loop.to_json_dict()},
        "logits_processors": [admission_class(loop)],
        "enforce_eager": True,
    }
    if current_platform.is_cpu():  # elsewhere runner V2 asks the model for its own state class
        settings["worker_cls"] = CPU_WORKER_CLS
    return settings


def admission_class(loop: LoopConfig) -> str:
    """Return the name under which vLLM loads the check of every request's depth."""
    return f"model.vllm_plugin.admission:RecurrenceDepthUpTo{loop.max_recurrence_depth}"


def request_kwargs(loop: LoopConfig, depth: object) -> RequestKwargs:
    """Return what a request of `depth` carries.

    Raises:
        DepthError: the engine cannot serve this depth.
    """
    checked = loop.check_depth(depth)
    return RequestKwargs(
        recurrence_depth=checked, extra_args={DEPTH_KEY: checked}, cache_salt=loop.cache_salt(checked)
    )


def assert_registered() -> None:
    """Make sure that vLLM knows the looped architecture; call it before an engine starts.

    vLLM only logs a plugin that it cannot import, and would then serve nothing with an unrelated message.

    Raises:
        EngineSetupError: the plugin was not loaded.
    """
    from vllm import ModelRegistry
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        raise EngineSetupError(
            f"vLLM does not know {ARCHITECTURE}: its plugin was not loaded",
            hint="Install loopwright into vLLM's environment, and name it in VLLM_PLUGINS if that is set.",
        )
