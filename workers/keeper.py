"""The process that owns an engine: starts it, with a Ray for it, notes how it does, and ends both.

It reads its settings as one line of JSON on stdin. A warm engine's keeper outlives the command that started
it and ends when the engine is idle; a run's keeper ends when stdin closes, as it does however the run ends.
SIGTERM ends either. Its Ray dies with it, even when it is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from pipeline.exceptions import EngineDeadError, LoopwrightError
from workers import ray_runtime, warm_state
from workers.engine.batch import EngineCounters
from workers.engine.settings import EngineSettings
from workers.launch import KeeperSettings, kill_left
from workers.replica import translated
from workers.warm_state import WarmState

_POLL_SECONDS = 2.0
_ANSWER_SECONDS = 30.0
_SHUTDOWN_SECONDS = 10.0
_EXIT_SECONDS = 2.0


class _TerminatedError(Exception):
    """SIGTERM came."""


def main() -> None:
    """Keep the engine of the settings on stdin until it is idle for too long, dead, or told to end."""
    settings = KeeperSettings.from_json(sys.stdin.readline())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is not meant for us
    signal.signal(signal.SIGTERM, _raise_terminated)
    if settings.idle_timeout_seconds is None:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with contextlib.suppress(_TerminatedError):
        _keep(settings)


def _keep(settings: KeeperSettings) -> None:
    folder = Path(settings.folder)
    ray_folder = _start_or_join_ray(settings)
    signal.signal(signal.SIGTERM, _raise_terminated)  # Ray has put its own handler there
    handles: list[Any] = []
    state = _first_state(settings)
    try:
        warm_state.write(folder, state)
        _start_actors(settings, handles)
        _wait_until_ready(handles, settings.start_timeout_seconds)
        state = replace(state, phase="ready")
        _watch(folder, state, handles)
    except LoopwrightError as error:
        traceback.print_exception(error)  # the log gets the engine's own traceback
        state = replace(state, phase="failed", message=str(error), hint=error.hint)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not leave half behind
        descendants = psutil.Process().children(recursive=True)
        _stop_actors(handles, gently=state.phase == "ready")
        ray_runtime.stop_ray(ray_folder)
        kill_left(descendants, after_seconds=_EXIT_SECONDS)  # Python may take long to exit
        if state.phase == "failed":
            warm_state.write(folder, state)  # for whoever waits to read it
        elif settings.idle_timeout_seconds is None:
            shutil.rmtree(folder, ignore_errors=True)  # the run's own, which may have been killed
        else:
            warm_state.remove(folder)


def _start_or_join_ray(settings: KeeperSettings) -> Path | None:
    """Return the folder of the Ray that was started, or None where one was joined."""
    if settings.address is None:
        return ray_runtime.start_ray(Path(settings.token_folder))
    ray_runtime.join_ray(settings.address)
    return None


def _start_actors(settings: KeeperSettings, handles: list[Any]) -> None:
    from workers.engine.actor import start_actor

    for name in settings.actor_names:
        handles.append(start_actor(settings.engine, name=name))


def _wait_until_ready(handles: list[Any], timeout_seconds: float) -> None:
    """Return when every engine is up.

    Raises:
        GeneratorError: one did not start, or not in time.
    """
    import ray

    try:
        ray.get([handle.info.remote() for handle in handles], timeout=timeout_seconds)
    except ray.exceptions.GetTimeoutError as error:
        raise EngineDeadError(
            f"the engine was not up after {timeout_seconds:.0f} s",
            hint="Free memory and CPU, or raise engine.start_timeout_seconds.",
        ) from error
    except ray.exceptions.RayError as error:
        raise translated(error) from error


def _watch(folder: Path, state: WarmState, handles: list[Any]) -> None:
    """Note the counters every few seconds; return when all engines have been idle for too long."""
    while True:
        counters = _counters(handles)
        if counters is not None:
            warm_state.write(folder, replace(state, seen_at=time.time(), counters=counters))
            idle_seconds = counters["idle_seconds"]
            if state.idle_timeout_seconds is not None and idle_seconds > state.idle_timeout_seconds:
                _log(f"idle for {idle_seconds:.0f} s, ending")
                return
        time.sleep(_POLL_SECONDS)


def _counters(handles: list[Any]) -> dict[str, Any] | None:
    """Return the counters of all engines together, or None while one does not answer.

    Raises:
        EngineDeadError: one is dead for good.
    """
    import ray

    try:
        counters = ray.get([handle.counters.remote() for handle in handles], timeout=_ANSWER_SECONDS)
    except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
        return None  # Ray restarts it, or it is busy
    except ray.exceptions.RayError as error:
        raise translated(error) from error
    return asdict(EngineCounters.of_all(counters))


def _stop_actors(handles: list[Any], *, gently: bool) -> None:
    """End the actors and their engines' processes; gently, where the engines are up and can tidy up first."""
    import ray

    if gently:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get([handle.shutdown.remote() for handle in handles], timeout=_SHUTDOWN_SECONDS)
    for handle in handles:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(handle)


def _first_state(settings: KeeperSettings) -> WarmState:
    import ray

    engine: EngineSettings = settings.engine
    return WarmState(
        pid=os.getpid(),
        process_started_at=psutil.Process().create_time(),
        address=settings.address or ray.get_runtime_context().gcs_address,
        actor_names=settings.actor_names,
        engine_id=engine.engine_id,
        model=engine.model_path,
        max_model_tokens=engine.max_model_tokens,
        max_recurrence_depth=engine.max_recurrence_depth,
        idle_timeout_seconds=settings.idle_timeout_seconds,
        phase="starting",
    )


def _end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _raise_terminated(_signal: int, _frame: FrameType | None) -> None:
    raise _TerminatedError


def _log(line: str) -> None:
    print(f"{time.strftime('%F %T')} {line}", flush=True)


if __name__ == "__main__":
    main()
