"""Chooses a dtype from the CPU's flags: what is fast differs by an order of magnitude between CPUs."""

from __future__ import annotations

import re
from pathlib import Path

from model.provision.catalogue import Dtype

_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def default_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> Dtype:
    """Return int8 where the CPU multiplies int8 natively, else bfloat16 where it does that, else float32.

    bfloat16 without AVX512-BF16 or AMX is emulated and about five times slower than float32.
    """
    if _cpu_flags(cpuinfo) & _INT8_FLAGS:
        return "int8"
    return "bfloat16" if computes_bfloat16(cpuinfo) else "float32"


def computes_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether the CPU multiplies bfloat16 natively."""
    return bool(_cpu_flags(cpuinfo) & _BFLOAT16_FLAGS)


def computing_dtype(dtype: str, is_quantised: bool, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what a checkpoint of this dtype computes in: its own, unless vLLM cannot do that on this CPU.

    With AMX it multiplies int8 weights by a kernel that takes no float32, and dies at the first prompt.
    """
    if dtype == "float32" and is_quantised and "amx_tile" in _cpu_flags(cpuinfo):
        return "bfloat16"
    return "float32" if dtype == "bfloat16" and not computes_bfloat16(cpuinfo) else dtype


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()
