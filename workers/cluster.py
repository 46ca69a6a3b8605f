"""Where the engine runs: on a warm Ray, on a cluster, or on a Ray started for one run and ended with it."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.exceptions import EngineDeadError
from workers import ray_runtime, warm_state
from workers.engine.settings import EngineSettings
from workers.generator import RayGenerator
from workers.replica import RayReplica, translated

Notify = Callable[[str], None]  # receives one line on what is being waited for

_NOTIFY_SECONDS = 5.0
_SHUTDOWN_SECONDS = 10.0
_TOUCH_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Where and how many engines run."""

    engine: EngineSettings
    state_folder: Path  # of the warm engine's state, log and token
    address: str | None = None  # of a Ray cluster ("auto", "host:port"); None: RAY_ADDRESS, or this machine
    num_replicas: int = 1
    start_timeout_seconds: float = 600.0
    idle_timeout_seconds: float = 1800.0  # after which a warm engine ends by itself


def connect_or_start(settings: ClusterSettings, notify: Notify) -> RayGenerator:
    """Return a generator over the warm engine with these settings, or over one started for this process.

    Its `close` ends what was started here; so does the end of this process, however it comes.

    Raises:
        EnvironmentBrokenError: Ray or vLLM is not installed, or Ray does not start.
        ModelUnavailableError: there is no checkpoint at `settings.engine.model_path`.
        GeneratorError: the engine did not start in time.
    """
    ray_runtime.require_engine()
    engine = settings.engine.resolved()
    address = settings.address or os.environ.get("RAY_ADDRESS")
    if address:
        notify(f"joining the Ray cluster at {address}")
        ray_runtime.join_ray(address)
        return _generator(engine, settings, notify, ray_folder=None)
    warm = warm_state.read(settings.state_folder)
    if warm is not None and warm.engine_id == engine.engine_id:
        notify("using the warm engine")
        ray_runtime.join_ray(warm.address, settings.state_folder)
        return _generator(engine, settings, notify, ray_folder=None)
    if warm is not None:
        notify(f"the warm engine has other settings ({warm.model}); starting one for this run alone")
    notify("starting Ray")
    return _generator(engine, settings, notify, ray_folder=ray_runtime.start_ray(settings.state_folder))


def _generator(
    engine: EngineSettings, settings: ClusterSettings, notify: Notify, *, ray_folder: Path | None
) -> RayGenerator:
    """Return the generator over named actors, found or started; nothing is left behind when that fails."""
    lease = _Lease(ray_folder)
    try:
        for index in range(settings.num_replicas):
            lease.add(f"engine-{engine.engine_id}-{index}", engine)
        wait_until_ready(lease.handles, settings.start_timeout_seconds, notify)
        lease.is_ready = True
    except BaseException:
        lease.close()
        raise
    lease.keep_awake()
    replicas = [RayReplica(h, start_timeout_seconds=settings.start_timeout_seconds) for h in lease.handles]
    return RayGenerator(replicas, on_close=lease.close)


def wait_until_ready(handles: Sequence[Any], timeout_seconds: float, notify: Notify) -> None:
    """Return when every actor's engine is up, telling every few seconds that it still waits.

    Raises:
        GeneratorError: one did not start, or not in time.
    """
    import ray

    started_at = time.monotonic()
    waiting = [handle.info.remote() for handle in handles]
    while waiting:
        done, waiting = ray.wait(waiting, timeout=_NOTIFY_SECONDS)
        seconds = time.monotonic() - started_at
        try:
            ray.get(done)
        except Exception as error:
            raise translated(error) from error
        if waiting and seconds > timeout_seconds:
            raise EngineDeadError(
                f"the engine was not up after {timeout_seconds:.0f} s",
                hint="Free memory and CPU, or raise engine.start_timeout_seconds.",
            )
        if waiting:
            notify(f"waiting for the engine: {seconds:.0f} s (usually about a minute on a CPU)")


class _Lease:
    """What this process holds of Ray: a connection, the actors it started, and the Ray it started."""

    def __init__(self, ray_folder: Path | None) -> None:
        self._ray_folder = ray_folder
        self._own: list[Any] = []
        self._closed = threading.Event()
        self.handles: list[Any] = []
        self.is_ready = False
        atexit.register(self.close)

    def add(self, name: str, engine: EngineSettings) -> None:
        """Find the actor by name, or start it."""
        import ray

        from workers.engine.actor import start_actor

        try:
            self.handles.append(ray.get_actor(name, namespace=ray_runtime.NAMESPACE))
        except ValueError:
            self._own.append(start_actor(engine, name=name))
            self.handles.append(self._own[-1])

    def keep_awake(self) -> None:
        """Restart the idle clock of engines that others own, as long as this process is there."""
        if len(self._own) < len(self.handles):
            threading.Thread(target=self._touch, name="engine-touch", daemon=True).start()

    def close(self) -> None:
        """End what was started here and disconnect. May be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        atexit.unregister(self.close)
        stop_actors(self._own, gently=self.is_ready)
        ray_runtime.stop_ray(self._ray_folder)

    def _touch(self) -> None:
        while not self._closed.wait(_TOUCH_SECONDS):
            for handle in self.handles:
                with contextlib.suppress(Exception):  # a dead engine shows where it is used
                    handle.touch.remote()


def stop_actors(handles: Sequence[Any], *, gently: bool) -> None:
    """End the actors and their engines' processes; gently, where the engines are up and can tidy up first."""
    import ray

    if gently:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get([handle.shutdown.remote() for handle in handles], timeout=_SHUTDOWN_SECONDS)
    for handle in handles:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(handle)
