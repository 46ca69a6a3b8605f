"""The process behind `loopwright up`: owns a Ray and its engine, notes how they do, ends them when idle.

Started detached, with its settings as JSON on stdin. SIGTERM ends it; however it ends, its Ray ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from pipeline.exceptions import LoopwrightError
from workers import ray_runtime, warm_state
from workers.cluster import ClusterSettings, stop_actors, wait_until_ready
from workers.engine.batch import EngineCounters
from workers.engine.settings import EngineSettings
from workers.replica import translated
from workers.warm_state import WarmState

_POLL_SECONDS = 2.0
_ANSWER_SECONDS = 30.0


class _TerminatedError(Exception):
    """SIGTERM came."""


def main() -> None:
    """Keep the engine of the settings on stdin until it is idle for too long, dead, or told to end."""
    settings = read_settings(sys.stdin.read())
    signal.signal(signal.SIGTERM, _raise_terminated)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal of `up` is not meant for us
    with contextlib.suppress(_TerminatedError):
        _keep(settings)


def write_settings(settings: ClusterSettings) -> str:
    """Return the settings as `read_settings` takes them."""
    values = asdict(settings)
    return json.dumps(values | {"state_folder": str(settings.state_folder)})


def read_settings(text: str) -> ClusterSettings:
    """Return the settings that `write_settings` wrote."""
    from model.loop import LoopConfig

    values = json.loads(text)
    loop = values["engine"].pop("loop")
    engine = EngineSettings(**values.pop("engine"), loop=LoopConfig.from_json_dict(loop) if loop else None)
    return ClusterSettings(**values | {"engine": engine, "state_folder": Path(values["state_folder"])})


def _keep(settings: ClusterSettings) -> None:
    folder = settings.state_folder
    ray_folder = ray_runtime.start_ray(folder)
    signal.signal(signal.SIGTERM, _raise_terminated)  # Ray has put its own handler there
    handles: list[Any] = []
    state = _first_state(settings)
    try:
        warm_state.write(folder, state)
        _start_actors(settings, handles)
        wait_until_ready(handles, settings.start_timeout_seconds, _log)
        state = replace(state, phase="ready")
        _watch(folder, state, handles)
    except LoopwrightError as error:
        _log(f"failed: {error}")
        state = replace(state, phase="failed", message=str(error), hint=error.hint)
    finally:
        stop_actors(handles, gently=state.phase == "ready")
        ray_runtime.stop_ray(ray_folder)
        if state.phase == "failed":
            warm_state.write(folder, state)  # for `up`, which waits to read it
        else:
            warm_state.remove(folder)


def _start_actors(settings: ClusterSettings, handles: list[Any]) -> None:
    from workers.engine.actor import start_actor

    engine = settings.engine
    for index in range(settings.num_replicas):
        handles.append(start_actor(engine, name=f"engine-{engine.engine_id}-{index}"))


def _watch(folder: Path, state: WarmState, handles: list[Any]) -> None:
    """Write down the counters every few seconds; return when all engines have been idle for too long."""
    while True:
        counters = _counters(handles)
        if counters is not None:
            warm_state.write(folder, replace(state, seen_at=time.time(), counters=counters))
            if counters["idle_seconds"] > state.idle_timeout_seconds:
                _log(f"idle for {counters['idle_seconds']:.0f} s, ending")
                return
        time.sleep(_POLL_SECONDS)


def _counters(handles: list[Any]) -> dict[str, Any] | None:
    """Return the counters of all engines together, or None while one does not answer.

    Raises:
        EngineDeadError: one is dead for good.
    """
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError

    try:
        counters = ray.get([handle.counters.remote() for handle in handles], timeout=_ANSWER_SECONDS)
    except (ActorUnavailableError, GetTimeoutError):  # Ray restarts it, or it is busy
        return None
    except ray.exceptions.RayError as error:
        raise translated(error) from error
    return asdict(EngineCounters.of_all(counters))


def _first_state(settings: ClusterSettings) -> WarmState:
    import ray

    return WarmState(
        pid=os.getpid(),
        process_started_at=psutil.Process().create_time(),
        address=ray.get_runtime_context().gcs_address,
        engine_id=settings.engine.engine_id,
        model=settings.engine.model_path,
        max_model_tokens=settings.engine.max_model_tokens,
        max_recurrence_depth=settings.engine.max_recurrence_depth,
        idle_timeout_seconds=settings.idle_timeout_seconds,
        phase="starting",
    )


def _raise_terminated(_signal: int, _frame: FrameType | None) -> None:
    raise _TerminatedError


def _log(line: str) -> None:
    print(f"{time.strftime('%F %T')} {line}", flush=True)


if __name__ == "__main__":
    main()
