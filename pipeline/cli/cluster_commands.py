"""`loopwright up`, `status` and `down`: the warm engine."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.home import engine_root
from pipeline.text import duration

if TYPE_CHECKING:
    from workers.warm_state import WarmState

_UNSEEN_SECONDS = 60.0  # after which an engine that tells nothing counts as unresponsive

_Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def up(
    model: Annotated[
        str | None, typer.Option(help="A name of `loopwright model list`, or a checkpoint.")
    ] = None,
    max_depth: Annotated[int | None, typer.Option(min=1, help="Recurrence depth at most.")] = None,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings: a YAML file, `fast`, `thorough`.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Start a warm engine that later commands reuse; it ends by itself when it is idle for long.

    Give it the settings that `fix` will get: an engine has one model, one window and one maximal depth.
    """
    from pipeline.cli.compose import cluster_settings
    from pipeline.cli.inputs import Flags, resolve_settings
    from workers import warm_engine

    for number in (signal.SIGTERM, signal.SIGHUP):  # end like Ctrl-C: nothing half started stays
        signal.signal(number, signal.default_int_handler)
    flags = Flags(config=config, model=model, max_depth=max_depth, assignments=tuple(assignments or ()))
    state = warm_engine.up(
        cluster_settings(resolve_settings(flags)), lambda line: typer.echo(f"loopwright: {line}", err=True)
    )
    _tell(state, as_json=as_json)


def status(as_json: _Json = False) -> None:
    """Show the warm engine: model, health, queue, tokens, and when it will end by itself."""
    from workers import warm_engine

    _tell(warm_engine.status(engine_root()), as_json=as_json)


def down(as_json: _Json = False) -> None:
    """End the warm engine and its Ray."""
    from workers import warm_engine

    was_up = warm_engine.down(engine_root())
    if as_json:
        typer.echo(json.dumps({"was_up": was_up}))
    else:
        typer.echo("the warm engine has ended" if was_up else "no warm engine was up", err=True)


def _tell(state: WarmState | None, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"is_up": False} if state is None else _as_object(state), indent=1))
    elif state is None:
        typer.echo("no warm engine is up; `loopwright up` starts one", err=True)
    else:
        typer.echo(_account(_as_object(state)))


def _as_object(state: WarmState) -> dict[str, Any]:
    """Return the state with what follows from it now."""
    now = time.time()
    unseen_seconds = now - state.seen_at
    idle_seconds = state.counters.get("idle_seconds", 0.0) + unseen_seconds
    running_seconds = state.counters.get("running_seconds", 0.0)
    num_tokens = state.counters.get("num_completion_tokens", 0)
    is_silent = state.phase == "ready" and unseen_seconds > _UNSEEN_SECONDS
    return {
        **asdict(state),
        "is_up": True,
        "health": "unresponsive" if is_silent else state.phase,
        "uptime_seconds": round(now - state.started_at, 1),
        "idle_seconds_left": _seconds_left(state, idle_seconds),
        "tokens_per_second": round(num_tokens / running_seconds, 1) if running_seconds else None,
    }


def _seconds_left(state: WarmState, idle_seconds: float) -> float | None:
    """Return the seconds until it ends by itself, or None where it is at work."""
    if state.idle_timeout_seconds is None or state.counters.get("num_running"):
        return None
    return round(max(state.idle_timeout_seconds - idle_seconds, 0.0), 1)


def _account(values: dict[str, Any]) -> str:
    counters = values["counters"]
    left = values["idle_seconds_left"]
    speed = values["tokens_per_second"]
    num_tokens, num_samples = counters.get("num_completion_tokens", 0), counters.get("num_requests", 0)
    max_depth = values["max_recurrence_depth"]
    rows = {
        "model": values["model"],
        "window": f"{values['max_model_tokens']} tokens, recurrence depth 1 to {max_depth}",
        "health": f"{values['health']}, up for {duration(values['uptime_seconds'])}, process {values['pid']}",
        "queue": f"{counters.get('num_running', 0)} samples",
        "drafted": f"{num_tokens} tokens in {num_samples} samples" + (f", {speed} a second" if speed else ""),
        "ends": "not while it works" if left is None else f"when idle for another {duration(left)}",
    }
    return "\n".join(f"{name:8} {value}" for name, value in rows.items())
