"""The life of the warm engine, as seen from the terminal: `up`, `down` and `status`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from pipeline.exceptions import EngineDeadError, GeneratorError, InputError
from workers import ray_runtime, warm_state
from workers.cluster import ClusterSettings, Notify
from workers.warm_state import WarmState

_POLL_SECONDS = 0.2
_NOTIFY_SECONDS = 5.0
_STOP_SECONDS = 30.0


def up(settings: ClusterSettings, notify: Notify) -> WarmState:
    """Return the state of the warm engine with these settings, once it is ready; starts it where none is.

    It stays when this process ends. Interrupted while it waits, nothing stays.

    Raises:
        InputError: an engine with other settings is up.
        EnvironmentBrokenError: Ray or vLLM is not installed, or Ray does not start.
        GeneratorError: the engine did not start.
    """
    ray_runtime.require_engine()
    settings = replace(settings, engine=settings.engine.resolved())
    folder = settings.state_folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "engine.lock"):  # of two `up` at once, one starts it and the other finds it
        state = warm_state.read(folder)
        if state is None:
            return _start(settings, notify)
        if state.engine_id != settings.engine.engine_id:
            raise InputError(
                f"a warm engine with other settings is up ({state.model})",
                hint="Run `loopwright down` first.",
            )
        notify("the engine is already up")
        return state


def down(state_folder: Path) -> bool:
    """End the warm engine with its Ray and return whether there was one. Returns when no process is left."""
    import psutil

    state = warm_state.read(state_folder)
    if state is None:
        ray_runtime.remove_stale_folders()
        return False
    processes: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        keeper = psutil.Process(state.pid)
        processes = [keeper, *keeper.children(recursive=True)]
        keeper.terminate()
    _, left = psutil.wait_procs(processes, timeout=_STOP_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_STOP_SECONDS)
    warm_state.remove(state_folder)
    ray_runtime.remove_stale_folders()
    return True


def status(state_folder: Path) -> WarmState | None:
    """Return the warm engine's state as its keeper last saw it, or None where there is none."""
    return warm_state.read(state_folder)


def _start(settings: ClusterSettings, notify: Notify) -> WarmState:
    from workers.keeper import write_settings

    notify("starting Ray and the engine (usually about a minute on a CPU)")
    folder = settings.state_folder
    with (folder / "engine.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers.keeper"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,  # never the repository that the user stands in
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            start_new_session=True,
        )
    assert keeper.stdin is not None
    try:
        with keeper.stdin as stdin:
            stdin.write(write_settings(settings).encode())
        return _wait(keeper, folder, notify)
    except BaseException:
        keeper.terminate()
        keeper.wait(_STOP_SECONDS)
        raise


def _wait(keeper: subprocess.Popen[bytes], folder: Path, notify: Notify) -> WarmState:
    """Return the state once the keeper says that the engine is ready."""
    started_at = notified_at = time.monotonic()
    while keeper.poll() is None:
        state = warm_state.load(folder)
        if state is not None and state.pid == keeper.pid and state.phase == "ready":
            return state
        if time.monotonic() - notified_at > _NOTIFY_SECONDS:
            notified_at = time.monotonic()
            notify(f"waiting for the engine: {notified_at - started_at:.0f} s")
        time.sleep(_POLL_SECONDS)
    state = warm_state.load(folder)
    if state is not None and state.pid == keeper.pid:
        raise GeneratorError(state.message, hint=state.hint)
    raise EngineDeadError(
        f"the engine's keeper ended with code {keeper.returncode}",
        hint=f"Its log is {folder / 'engine.log'}.",
    )
