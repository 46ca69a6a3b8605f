"""What a looped model needs of a machine: weights by dtype, keys and values by depth and policy; no torch.

All figures follow from the configuration alone, so that a machine can be judged before it is rented. Work
space is an estimate. Blocks that are filled in part are not counted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from model.checkpoints import read_config
from model.checkpoints.files import read_config_file
from model.config import LoopedConfig
from model.exceptions import ModelError
from model.parameters import parameter_counts

WeightDtype = Literal["float32", "bfloat16", "fp8", "int8", "int4"]
KVDtype = Literal["float32", "bfloat16", "fp8"]
WEIGHT_DTYPES: tuple[WeightDtype, ...] = get_args(WeightDtype)
KV_DTYPES: tuple[KVDtype, ...] = get_args(KVDtype)
GIB = 1 << 30

_KV_BYTES: dict[KVDtype, int] = {"float32": 4, "bfloat16": 2, "fp8": 1}
# Of the projections inside blocks. int4 is a group of 128 values with a 2-byte scale and half a byte of zero.
_LINEAR_BYTES: dict[WeightDtype, float] = {
    "float32": 4,
    "bfloat16": 2,
    "fp8": 1,
    "int8": 1,
    "int4": 0.5 + 2.5 / 128,
}
_NUM_WORK_COPIES = 12  # of the residual, alive at once in a forward pass: states, input, norms, projections


@dataclass(frozen=True, slots=True, kw_only=True)
class KVNeed:
    """Bytes of keys and values on one device."""

    bytes_per_token: int  # of everything that lies before a token
    bytes_per_window_token: int  # of the last `window_size` tokens, on top
    window_size: int

    def sequence_bytes(self, context_length: int) -> int:
        """Return the bytes of one sequence."""
        in_window = min(context_length, self.window_size)
        return self.bytes_per_token * context_length + self.bytes_per_window_token * in_window


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What an engine is asked to hold."""

    concurrency: int = 8
    context_length: int = 8192
    dtype: WeightDtype = "bfloat16"
    file_bytes: int | None = None  # of the checkpoint's weights, which then count instead of the dtype's
    kv_dtype: KVDtype | None = None  # None: float32 beside float32 weights, else bfloat16
    batched_tokens: int = 8192  # of one step of the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one of several equal devices holds, in bytes, and what fits beside it."""

    num_devices: int
    usable_bytes: int
    weight_bytes: int
    work_bytes: int  # of one step, its part of windows included
    kv: KVNeed
    kv_bytes: int  # that the demand asks for
    max_concurrency: int  # at the demanded context length
    max_context_length: int  # at the demanded concurrency
    problem: str  # why it does not run at all; "" where it does

    @property
    def kv_room_bytes(self) -> int:
        """Bytes that are left for keys and values."""
        return max(self.usable_bytes - self.weight_bytes - self.work_bytes, 0)

    @property
    def fits(self) -> bool:
        """Return whether the demand can be served."""
        return not self.problem and self.kv_bytes <= self.kv_room_bytes


def plan(
    config: LoopedConfig, demand: Demand, *, num_devices: int, memory_gib: float, utilisation: float = 0.9
) -> Plan:
    """Return what serving `config` takes on each of `num_devices` tensor-parallel devices.

    Args:
        config: `max_recurrence_depth` and `kv_policy` decide over the slots for keys and values.
        demand: what to hold.
        num_devices: weights, heads and vocabulary are split over them.
        memory_gib: of one device.
        utilisation: the share of it that the engine may take.
    """
    kv = kv_need(config, kv_dtype(demand), num_devices=num_devices)
    weights = weight_bytes(config, demand.dtype, num_devices=num_devices)
    if demand.file_bytes is not None:
        weights = demand.file_bytes * weights // weight_bytes(config, demand.dtype)
    work = work_bytes(config, demand, num_devices=num_devices)
    work += (
        kv.bytes_per_window_token * demand.batched_tokens
    )  # a step's tokens leave the window only after it
    usable = int(memory_gib * GIB * utilisation)
    room = usable - weights - work
    return Plan(
        num_devices=num_devices,
        usable_bytes=usable,
        weight_bytes=weights,
        work_bytes=work,
        kv=kv,
        kv_bytes=demand.concurrency * kv.sequence_bytes(demand.context_length),
        max_concurrency=max(room // kv.sequence_bytes(demand.context_length), 0),
        max_context_length=min(
            _longest_context(kv, room // demand.concurrency), config.max_position_embeddings
        ),
        problem=_problem(config, demand, num_devices, room),
    )


def kv_dtype(demand: Demand) -> KVDtype:
    """Return the type of keys and values: as asked, else that of the weights' computation."""
    return demand.kv_dtype or ("float32" if demand.dtype == "float32" else "bfloat16")


def kv_need(config: LoopedConfig, dtype: KVDtype = "bfloat16", *, num_devices: int = 1) -> KVNeed:
    """Return the bytes of keys and values for each token, for depths up to `config.max_recurrence_depth`."""
    block = config.block
    num_heads = max(block.num_key_value_heads // num_devices, 1)
    slot_bytes = 2 * num_heads * block.head_dim * _KV_BYTES[dtype]
    num_slots, num_outer = config.num_slots(), config.num_prelude_layers + config.num_coda_layers
    num_windows = 0
    if config.later_attention == "gated_window":  # later passes keep a window, and read the first pass's keys
        num_windows, num_slots = num_slots - 1, 1
    return KVNeed(
        bytes_per_token=slot_bytes * (num_outer + config.num_core_layers * num_slots),
        bytes_per_window_token=slot_bytes * config.num_core_layers * num_windows,
        window_size=config.window_size or 0,
    )


def weight_bytes(config: LoopedConfig, dtype: WeightDtype, *, num_devices: int = 1) -> int:
    """Return the bytes of weights on one device."""
    counts, float_bytes = parameter_counts(config), 4 if dtype == "float32" else 2
    split = counts.linear * _LINEAR_BYTES[dtype] + counts.embedding * float_bytes
    return int(split / num_devices) + counts.other * float_bytes


def work_bytes(config: LoopedConfig, demand: Demand, *, num_devices: int = 1) -> int:
    """Return an estimate of what one step's activations and logits take on one device."""
    block, float_bytes = config.block, 4 if demand.dtype == "float32" else 2
    per_token = _NUM_WORK_COPIES * block.hidden_size + 2 * block.intermediate_size // num_devices
    logits = 2 * 4 * demand.concurrency * config.vocab_size  # float32, and the sampler's copy
    return demand.batched_tokens * per_token * float_bytes + logits


def start_line(config: LoopedConfig, dtype: KVDtype = "bfloat16", *, num_devices: int = 1) -> str:
    """Return one line for an engine's start: what a token's keys and values take."""
    need = kv_need(config, dtype, num_devices=num_devices)
    window = need.bytes_per_window_token * need.window_size
    more = f" and {human_bytes(window)} of windows per sequence" if window else ""
    devices = " on each device" if num_devices > 1 else ""
    return (
        f"KV cache of {config.family}, depth up to {config.max_recurrence_depth}, {config.kv_policy}: "
        f"{human_bytes(need.bytes_per_token)} per token{more}{devices}, as {dtype}"
    )


def published_names() -> dict[str, str]:
    """Return the built-in configurations by name, with their sources."""
    return {name: str(entry["source"]) for name, entry in _published().items()}


def find_config(name: str) -> LoopedConfig:
    """Return a built-in configuration by name, or that of a checkpoint's folder.

    Raises:
        ModelError: it is neither.
        CheckpointError: the folder's config is not one of a known family.
    """
    if name in _published():
        return read_config(_published()[name]["config"])
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return read_config(read_config_file(folder))
    raise ModelError(
        f"{name} is neither a published configuration nor a folder with config.json",
        hint=f"known: {', '.join(_published())}",
    )


def demand_of_files(folder: Path, demand: Demand) -> Demand:
    """Return `demand` with the weights that lie in a checkpoint's folder, in their own type."""
    files = [path for suffix in ("safetensors", "bin") for path in folder.glob(f"*.{suffix}")]
    config = read_config_file(folder)
    is_wide = (
        "float32" in (config.get("dtype"), config.get("torch_dtype")) and "quantization_config" not in config
    )
    num_bytes = sum(path.stat().st_size for path in files)
    return replace(demand, dtype="float32" if is_wide else "bfloat16", file_bytes=num_bytes or None)


def with_depth(config: LoopedConfig, depth: int | None, policy: str | None) -> LoopedConfig:
    """Return `config` with slots for `depth` passes, and another policy for keys and values.

    Raises:
        LoopConfigError: the family cannot do that.
    """
    changes: dict[str, Any] = {"kv_policy": policy} if policy else {}
    if depth is not None:
        changes |= {"max_recurrence_depth": depth, "recurrence_depth": min(config.recurrence_depth, depth)}
        changes["min_recurrence_depth"] = min(config.min_recurrence_depth, depth)
    return replace(config, **changes)


def human_bytes(num_bytes: float) -> str:
    """Return a size as a person reads it, in powers of 1024."""
    units = ["B", "KiB", "MiB", "GiB"]
    while num_bytes >= 1024 and len(units) > 1:
        num_bytes, units = num_bytes / 1024, units[1:]
    digits = 0 if num_bytes >= 100 or num_bytes == int(num_bytes) else 1
    return f"{num_bytes:,.{digits}f} {units[0]}"


def _published() -> dict[str, Any]:
    path = Path(__file__).with_name("published_configs.json")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _longest_context(kv: KVNeed, sequence_bytes: int) -> int:
    """Return the longest context whose keys and values take no more than `sequence_bytes`."""
    in_window = kv.bytes_per_token + kv.bytes_per_window_token
    if sequence_bytes <= in_window * kv.window_size:
        return max(sequence_bytes // in_window, 0)
    return (sequence_bytes - kv.bytes_per_window_token * kv.window_size) // kv.bytes_per_token


def _problem(config: LoopedConfig, demand: Demand, num_devices: int, room: int) -> str:
    block = config.block
    if block.num_attention_heads % num_devices or block.num_key_value_heads % num_devices:
        heads = f"{block.num_attention_heads} heads with {block.num_key_value_heads} for keys"
        return f"{heads} cannot be split over {num_devices} devices"
    if demand.context_length > config.max_position_embeddings:
        return f"the model's context ends at {config.max_position_embeddings:,} tokens"
    return "weights and work space do not fit" if room <= 0 else ""
