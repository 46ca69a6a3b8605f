"""The environment of an engine on a CPU."""

import os
from pathlib import Path

import pytest

from model.vllm_plugin.cpu_env import cpu_environment


def test_threads_are_bound_to_cpus_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    environment = cpu_environment(10_000, 1 << 30)
    assert {int(cpu) for cpu in environment["VLLM_CPU_OMP_THREADS_BIND"].split(",")} == allowed
    assert environment["OMP_NUM_THREADS"] == str(len(allowed))
    assert cpu_environment(1, 1 << 30)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("num_bytes", "gib"), [(1, "1"), (1 << 30, "1"), ((1 << 30) + 1, "2"), (3 << 30, "3")]
)
def test_kv_cache_is_never_smaller_than_asked_for(num_bytes: int, gib: str) -> None:
    assert cpu_environment(1, num_bytes)["VLLM_CPU_KVCACHE_SPACE"] == gib


def test_only_libraries_that_exist_are_preloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    for library in cpu_environment(1, 1).get("LD_PRELOAD", "").split(":"):
        assert library == "" or Path(library).exists()
    monkeypatch.setattr("sys.prefix", str(tmp_path))  # an environment without libiomp5
    assert "libiomp5" not in cpu_environment(1, 1).get("LD_PRELOAD", "")


def test_what_the_user_preloads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/theirs.so")
    assert cpu_environment(1, 1)["LD_PRELOAD"].endswith("/usr/lib/theirs.so")
