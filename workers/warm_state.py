"""What a keeper writes down about its engine, for other processes to find it by."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Phase = Literal["starting", "ready", "failed"]
_FILE = "engine.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmState:
    """An engine, as its keeper last saw it."""

    pid: int  # of the keeper, which owns the Ray
    process_started_at: float  # tells the keeper from a later process with its pid
    address: str  # of the Ray
    actor_names: tuple[str, ...]
    engine_id: str
    model: str
    max_model_tokens: int
    max_recurrence_depth: int
    idle_timeout_seconds: float | None  # None: it lives as long as the run that started it
    phase: Phase
    message: str = ""  # why it failed
    hint: str = ""
    started_at: float = field(default_factory=time.time)
    seen_at: float = field(default_factory=time.time)  # when the counters were read
    counters: dict[str, Any] = field(default_factory=dict)  # EngineCounters


def read(folder: Path) -> WarmState | None:
    """Return the warm engine's state, or None where there is none; what a dead keeper left is removed."""
    state = load(folder)
    if state is None or not is_running(state.pid, state.process_started_at):
        remove(folder)
        return None
    return state


def load(folder: Path) -> WarmState | None:
    """Return what was written last, whether or not its keeper still runs; None where it is unreadable."""
    try:
        values = json.loads((folder / _FILE).read_text("utf-8"))
        return WarmState(**values | {"actor_names": tuple(values["actor_names"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(folder: Path, state: WarmState) -> None:
    """Replace the state in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(state)), "utf-8")
    temporary.replace(folder / _FILE)


def remove(folder: Path) -> None:
    """Remove the state, if there is any."""
    (folder / _FILE).unlink(missing_ok=True)


def is_running(pid: int, process_started_at: float) -> bool:
    """Return whether this very process still runs."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.create_time() == process_started_at and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
