"""`loopwright model plan`: what a model takes of a machine, at which depth, and what fits on it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from pipeline.exceptions import InputError

if TYPE_CHECKING:
    from model.config import LoopedConfig
    from model.memory import Demand, Plan

_WHAT = "What it shall hold"
_MACHINE = "The machine"


def plan(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A published configuration or a checkpoint's folder; without it, a list of them."
        ),
    ] = None,
    memory_gib: Annotated[
        float, typer.Option(min=0.1, help="Memory of one device.", rich_help_panel=_MACHINE)
    ] = 80.0,
    num_devices: Annotated[
        str, typer.Option(help="Devices, or several numbers of them: 1,2,8.", rich_help_panel=_MACHINE)
    ] = "1",
    utilisation: Annotated[
        float,
        typer.Option(
            min=0.1, max=1.0, help="Share of the memory that the engine takes.", rich_help_panel=_MACHINE
        ),
    ] = 0.9,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.", rich_help_panel=_WHAT)] = 8,
    context_length: Annotated[
        int, typer.Option(min=1, help="Tokens of each request, prompt and answer.", rich_help_panel=_WHAT)
    ] = 8192,
    depth: Annotated[
        int | None,
        typer.Option(min=1, help="Deepest recurrence to serve; else the model's own.", rich_help_panel=_WHAT),
    ] = None,
    kv_policy: Annotated[
        str | None, typer.Option(help="Where passes keep keys and values.", rich_help_panel=_WHAT)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Weights: bfloat16, float32, fp8, int8, int4; else those in the folder, or bfloat16.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    kv_dtype: Annotated[
        str | None, typer.Option(help="Keys and values: bfloat16, float32 or fp8.", rich_help_panel=_WHAT)
    ] = None,
    batched_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of one step of the engine.", rich_help_panel=_WHAT)
    ] = 8192,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a model takes of a machine, and what fits on it. Loads nothing and needs no GPU."""
    from model import memory
    from model.exceptions import ModelError

    if name is None:
        _print_list(as_json=as_json)
        return
    demand = memory.Demand(
        concurrency=concurrency,
        context_length=context_length,
        batched_tokens=batched_tokens,
        dtype=_one_of("--dtype", dtype or "bfloat16", memory.WEIGHT_DTYPES),
        kv_dtype=None if kv_dtype is None else _one_of("--kv-dtype", kv_dtype, memory.KV_DTYPES),
    )
    try:
        config = memory.with_depth(memory.find_config(name), depth, _policy(kv_policy))
        if dtype is None and name not in memory.published_names():
            demand = memory.demand_of_files(Path(name).expanduser(), demand)
    except ModelError as exc:
        raise InputError(str(exc), hint=exc.hint) from exc
    plans = [
        memory.plan(config, demand, num_devices=count, memory_gib=memory_gib, utilisation=utilisation)
        for count in _counts(num_devices)
    ]
    if as_json:
        typer.echo(json.dumps([_json(name, one) for one in plans], indent=2))
    else:
        _print_plans(name, config, demand, plans, memory_gib)


def _print_list(*, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from model import memory
    from model.parameters import parameter_counts

    rows = []
    for name, source in memory.published_names().items():
        config = memory.find_config(name)
        need = memory.kv_need(config)
        rows.append(
            {
                "name": name,
                "family": config.family,
                "num_parameters": parameter_counts(config).total,
                "depth": config.max_recurrence_depth,
                "kv_bytes_per_token": need.bytes_per_token,
                "window_bytes": need.bytes_per_window_token * need.window_size,
                "source": source,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "family", "parameters", "depth", "KV per token", "windows", "source")
    for row in rows:
        table.add_row(
            str(row["name"]),
            str(row["family"]),
            f"{cast(int, row['num_parameters']) / 1e9:.2f} B",
            str(row["depth"]),
            memory.human_bytes(cast(int, row["kv_bytes_per_token"])),
            memory.human_bytes(cast(int, row["window_bytes"])) if row["window_bytes"] else "-",
            str(row["source"]),
        )
    Console().print(table)


def _print_plans(
    name: str, config: LoopedConfig, demand: Demand, plans: list[Plan], memory_gib: float
) -> None:
    from rich.console import Console
    from rich.table import Table

    from model import memory

    console = Console()
    table = Table(
        "each device",
        *(f"{one.num_devices} x {memory_gib:g} GiB" for one in plans),
        title=_title(name, config),
    )
    size = memory.human_bytes
    rows: dict[str, list[str]] = {
        "memory for the engine": [size(one.usable_bytes) for one in plans],
        f"weights, {demand.dtype if demand.file_bytes is None else 'as in the files'}": [
            size(one.weight_bytes) for one in plans
        ],
        "work space (estimate)": [size(one.work_bytes) for one in plans],
        "left for KV": [size(one.kv_room_bytes) for one in plans],
        f"KV per token, {memory.kv_dtype(demand)}": [size(one.kv.bytes_per_token) for one in plans],
    }
    if config.later_attention == "gated_window":
        windows = [size(one.kv.bytes_per_window_token * one.kv.window_size) for one in plans]
        rows[f"windows of {config.window_size} per request"] = windows
    rows |= {
        f"KV of {demand.concurrency} x {demand.context_length:,} tokens": [
            size(one.kv_bytes) for one in plans
        ],
        f"most requests of {demand.context_length:,} tokens": [f"{one.max_concurrency:,}" for one in plans],
        f"longest of {demand.concurrency} requests": [f"{one.max_context_length:,}" for one in plans],
    }
    for label, cells in rows.items():
        table.add_row(label, *cells)
    console.print(table)
    for one in plans:
        console.print(_verdict(one, demand), highlight=False)


def _title(name: str, config: LoopedConfig) -> str:
    return f"{name} ({config.family}), depth up to {config.max_recurrence_depth}, {config.kv_policy}"


def _verdict(plan: Plan, demand: Demand) -> str:
    what = f"{demand.concurrency} requests of {demand.context_length:,} tokens"
    devices = f"{plan.num_devices} device" + ("s" if plan.num_devices > 1 else "")
    if plan.fits:
        return f"[green]fits[/green] on {devices}: {what}; up to {plan.max_concurrency:,} at once"
    if plan.problem:
        return f"[red]does not run[/red] on {devices}: {plan.problem}"
    instead = f"at most {plan.max_concurrency:,} at once" if plan.max_concurrency else "not even one fits"
    return f"[red]does not fit[/red] on {devices}: {what}; {instead}"


def _json(name: str, plan: Plan) -> dict[str, Any]:
    return {"name": name, **asdict(plan), "kv_room_bytes": plan.kv_room_bytes, "fits": plan.fits}


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise InputError(f"--num-devices {text!r} is no number of devices", hint="Write 2, or 1,2,8.")
    return counts


def _policy(text: str | None) -> str | None:
    from model.config import KVPolicy

    return None if text is None else _one_of("--kv-policy", text, get_args(KVPolicy))


def _one_of(option: str, text: str, allowed: tuple[Any, ...]) -> Any:
    if text not in allowed:
        raise InputError(f"{option} {text!r} is not known", hint=f"one of: {', '.join(allowed)}")
    return text
