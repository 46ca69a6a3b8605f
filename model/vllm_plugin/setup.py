"""What an engine's configuration must hold for a looped model: written at first, checked in the worker."""

from __future__ import annotations

from typing import Any

from vllm.config import VllmConfig

from model.checkpoints.native import CONFIG_KEY, common_sizes
from model.config import LoopedConfig
from model.exceptions import EngineSetupError

ARCHITECTURE = "LoopedForCausalLM"
METRICS_KEY = "loop_metrics"  # in vLLM's additional_config
START_HINT = "Start the engine with the arguments of model.vllm_plugin.serving.engine_kwargs."


def hf_overrides(config: LoopedConfig) -> dict[str, Any]:
    """Return what vLLM's copy of the checkpoint's config must say, in the names that vLLM knows.

    Published configs of looped families name their sizes in ways that vLLM does not read (n_embd, …).
    """
    return {
        "architectures": [ARCHITECTURE],
        CONFIG_KEY: config.to_json_dict(),
        **common_sizes(config),
    }


def checked_config(vllm_config: VllmConfig) -> LoopedConfig:
    """Return the engine's looped decoder.

    Raises:
        EngineSetupError: the engine lacks its settings, or the check of requests, or uses a feature that
            would run it wrongly.
        LoopConfigError: the settings contradict themselves.
    """
    from model.vllm_plugin.admission import admission_class

    settings = getattr(vllm_config.model_config.hf_config, CONFIG_KEY, None)
    if not isinstance(settings, dict):
        raise EngineSetupError("the engine's configuration holds no loop settings", hint=START_HINT)
    config = LoopedConfig.from_json_dict(settings)
    if admission_class(config) not in (vllm_config.model_config.logits_processors or []):
        raise EngineSetupError("nothing checks the depth of requests at admission", hint=START_HINT)
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        # A rank would loop over its own part of the core only, which is another function.
        raise EngineSetupError("a loop cannot be split over pipeline ranks", hint="Set them to 1.")
    _check_batches_are_whole(vllm_config)
    if vllm_config.speculative_config is not None:
        raise EngineSetupError("speculative decoding does not know recurrence depths; turn it off")
    if vllm_config.lora_config is not None:
        # vLLM finds a row's adapter by its place in the batch, and rows leave the batch between passes.
        raise EngineSetupError("LoRA adapters are not supported with a loop", hint="Merge the adapter.")
    _check_ranks(config, vllm_config.parallel_config.tensor_parallel_size)
    _check_servable(config)
    if not config.is_chunk_invariant and vllm_config.cache_config.enable_prefix_caching:
        raise EngineSetupError(
            f"with kv_policy {config.kv_policy} a prefix hit changes the answer",
            hint="Set enable_prefix_caching to False.",
        )
    return config


def _check_batches_are_whole(vllm_config: VllmConfig) -> None:
    """A rank that sees a part of a batch's rows or of their context cannot let rows leave between passes."""
    parallel = vllm_config.parallel_config
    if max(parallel.decode_context_parallel_size, parallel.prefill_context_parallel_size) > 1:
        raise EngineSetupError("a loop cannot be split over context-parallel ranks", hint="Set them to 1.")
    if parallel.use_ubatching:
        raise EngineSetupError("a loop does not run in micro-batches", hint="Turn dual batch overlap off.")


def _check_ranks(config: LoopedConfig, num_ranks: int) -> None:
    if num_ranks == 1:
        return
    block = config.block
    reasons = {
        "experts are not split over ranks": block.moe is not None,
        "norms over all heads are not split over ranks": block.qk_norm == "projection",
        "its heads do not divide by the ranks": block.num_attention_heads % num_ranks != 0
        or block.num_key_value_heads % num_ranks != 0,
    }
    for reason, holds in reasons.items():
        if holds:
            raise EngineSetupError(
                f"{config.family} does not run on {num_ranks} tensor-parallel ranks: {reason}",
                hint="Set tensor_parallel_size to 1.",
            )


def _check_servable(config: LoopedConfig) -> None:
    if config.gate in ("expert_choice", "token_choice") and config.later_attention != "shared":
        # Keys by recursion leave gaps in a slot, and a paged cache has places for all tokens of a sequence.
        raise EngineSetupError(
            "a router's keys by recursion cannot be served",
            hint='Set later_attention to "shared": all recursions then read the first one\'s keys.',
        )
