"""How to start a vLLM engine for a looped model, and what a request to it may carry.

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=path, **engine_kwargs(config)))
    engine.generate(text, SamplingParams(extra_args=request_kwargs(config, depth)), request_id)

A request that names no depth runs at the checkpoint's own. One that asks for what the model cannot do is
refused where vLLM admits requests, before it reaches any batch, also over vLLM's own HTTP server
(`vllm_xargs`, answered with 400). Prefix-cache blocks of different depths are kept apart by the scheduler,
whoever sends the request.
"""

from __future__ import annotations

from typing import Any

from model.config import LoopedConfig
from model.exceptions import EngineSetupError
from model.requests import DEPTH_KEY, REPORT_KEY, RULE_KEY, THRESHOLD_KEY, check_request

_CPU_WORKER = "model.vllm_plugin.worker.LoopedCPUWorker"
_GPU_WORKER = "model.vllm_plugin.gpu_worker.LoopedGPUWorker"
_SCHEDULERS = "model.vllm_plugin.scheduler"


def engine_kwargs(config: LoopedConfig, *, has_metrics: bool = False) -> dict[str, Any]:
    """Return the arguments that make a checkpoint a looped model, for `AsyncEngineArgs` or `LLM`.

    `has_metrics` keeps what each pass does to tokens as Prometheus metrics (`model.vllm_plugin.metrics`).

    A caller with values of its own under these names must merge them. Eager, because the number of passes
    differs from batch to batch, and compilation would keep the first one's.
    """
    from vllm.platforms import current_platform

    from model.vllm_plugin.admission import admission_class
    from model.vllm_plugin.setup import METRICS_KEY, hf_overrides

    settings: dict[str, Any] = {
        "hf_overrides": hf_overrides(config),
        "logits_processors": [admission_class(config)],
        "enforce_eager": True,
    }
    if current_platform.is_cpu():
        settings["worker_cls"] = _CPU_WORKER
        settings["scheduler_cls"] = f"{_SCHEDULERS}.LoopedScheduler"  # vLLM has no other one for CPUs
    else:
        settings["worker_cls"] = _GPU_WORKER
        settings["scheduler_cls"] = f"{_SCHEDULERS}.LoopedAsyncScheduler"
    if has_metrics:
        settings["additional_config"] = {METRICS_KEY: True}
    if not config.is_chunk_invariant:
        settings["enable_prefix_caching"] = False
    return settings


def request_kwargs(
    config: LoopedConfig,
    depth: object,
    *,
    exit_rule: str | None = None,
    exit_threshold: float | None = None,
    wants_report: bool = False,
) -> dict[str, Any]:
    """Return the `extra_args` of a request.

    With `wants_report` the answer says what the loop did: `RequestOutput.kv_transfer_params["loop_report"]`.

    Raises:
        DepthError: the model cannot serve it.
    """
    given = {
        DEPTH_KEY: depth,
        RULE_KEY: exit_rule,
        THRESHOLD_KEY: exit_threshold,
        REPORT_KEY: True if wants_report else None,
    }
    extra_args = {key: value for key, value in given.items() if value is not None}
    check_request(extra_args, config.max_recurrence_depth, config.exit_rules)
    return extra_args


def assert_registered() -> None:
    """Make sure that vLLM knows the looped architecture; call it before an engine starts.

    vLLM only logs a plugin that it cannot import, and would then serve nothing with an unrelated message.

    Raises:
        EngineSetupError: the plugin was not loaded.
    """
    from vllm import ModelRegistry
    from vllm.plugins import load_general_plugins

    from model.vllm_plugin.setup import ARCHITECTURE

    load_general_plugins()
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        raise EngineSetupError(
            f"vLLM does not know {ARCHITECTURE}: its plugin was not loaded",
            hint="Install loopwright into vLLM's environment, and name it in VLLM_PLUGINS if that is set.",
        )
