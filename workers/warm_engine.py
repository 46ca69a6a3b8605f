"""The life of the warm engine, as seen from the terminal: `up`, `down` and `status`."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from pipeline.exceptions import InputError
from workers import ray_runtime, warm_state
from workers.cluster import ClusterSettings
from workers.launch import Keeper, Notify, await_warm, stop_process
from workers.warm_state import WarmState


def up(settings: ClusterSettings, notify: Notify) -> WarmState:
    """Return the state of the warm engine with these settings, once it is ready; starts it where none is.

    It stays when this process ends. Interrupted while it waits, nothing stays.

    Raises:
        InputError: an engine with other settings is up.
        EnvironmentBrokenError: Ray or vLLM is not installed, or Ray does not start.
        GeneratorError: the engine did not start.
    """
    ray_runtime.require_engine()
    folder = settings.state_folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "engine.lock"):  # of two `up` at once, one starts it and the other finds it
        state = warm_state.read(folder)
        if state is not None and state.engine_id != settings.engine.resolved().engine_id:
            raise InputError(
                f"a warm engine with other settings is up ({state.model})",
                hint="Run `loopwright down` first.",
            )
        state = await_warm(folder, notify)
        if state is not None:
            notify("the engine is already up")
            return state
        notify("starting the engine (usually about half a minute on a CPU)")
        keeper = Keeper(settings.keeper(folder, is_warm=True))
        try:
            return keeper.wait(notify)
        except BaseException:
            keeper.stop()
            raise


def down(state_folder: Path) -> bool:
    """End the warm engine with its Ray and return whether there was one. Returns when no process is left."""
    state = warm_state.read(state_folder)
    if state is None:
        return False
    stop_process(state.pid)
    warm_state.remove(state_folder)
    return True


def status(state_folder: Path) -> WarmState | None:
    """Return the warm engine's state as its keeper last saw it, or None where there is none."""
    return warm_state.read(state_folder)
