"""An engine computes in the dtype of its checkpoint, which vLLM's own "auto" does not do for float32."""

import json
from pathlib import Path

import pytest

from model.provision.cpu import computes_bfloat16, computing_dtype
from workers.engine.settings import EngineSettings


def resolved_dtype(folder: Path, checkpoint: str, asked: str = "auto") -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "any", "dtype": checkpoint}))
    return EngineSettings(model_path=str(folder), dtype=asked, max_recurrence_depth=1).resolved().dtype


def test_a_float32_checkpoint_is_not_turned_into_bfloat16(tmp_path: Path) -> None:
    assert resolved_dtype(tmp_path, "float32") == "float32"


def test_a_dtype_that_is_asked_for_is_used(tmp_path: Path) -> None:
    assert resolved_dtype(tmp_path, "float32", asked="bfloat16") == "bfloat16"


@pytest.mark.parametrize(("flags", "expected"), [("avx512f avx512_vnni", False), ("avx512f amx_bf16", True)])
def test_native_bfloat16_is_read_from_the_cpus_flags(tmp_path: Path, flags: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
    assert computes_bfloat16(tmp_path / "cpuinfo") is expected


@pytest.mark.parametrize(
    ("flags", "dtype", "is_quantised", "expected"),
    [
        ("avx512_vnni", "float32", True, "float32"),
        ("avx512_vnni amx_bf16 amx_tile amx_int8", "float32", True, "bfloat16"),
        ("avx512_vnni amx_bf16 amx_tile amx_int8", "float32", False, "float32"),
        ("avx512_vnni amx_bf16 amx_tile amx_int8", "bfloat16", False, "bfloat16"),
        ("avx512_vnni", "bfloat16", False, "float32"),
    ],
)
def test_int8_computes_in_bfloat16_where_the_cpus_kernel_takes_no_float32(
    tmp_path: Path, flags: str, dtype: str, is_quantised: bool, expected: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
    assert computing_dtype(dtype, is_quantised, tmp_path / "cpuinfo") == expected
