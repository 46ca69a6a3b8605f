"""Where the engine runs: found warm, or started for one run, on this machine or on a Ray cluster."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workers import ray_runtime, warm_state
from workers.engine.clients import TOUCH_SECONDS
from workers.engine.settings import EngineSettings
from workers.generator import RayGenerator
from workers.launch import Keeper, KeeperSettings, Notify, await_warm
from workers.replica import RayReplica
from workers.warm_state import WarmState


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Where and how many engines run."""

    engine: EngineSettings
    state_folder: Path  # of the warm engine's state, log and token
    address: str | None = None  # of a Ray cluster ("auto", "host:port"); None: RAY_ADDRESS, or this machine
    num_replicas: int = 1
    start_timeout_seconds: float = 600.0
    idle_timeout_seconds: float = 1800.0  # after which a warm engine ends by itself

    @property
    def ray_address(self) -> str | None:
        """Return the address of the Ray cluster to use, or None for a Ray on this machine."""
        return self.address or os.environ.get("RAY_ADDRESS")

    def keeper(self, folder: Path, *, is_warm: bool) -> KeeperSettings:
        """Return the settings of a keeper with its state in `folder`; warm: it outlives this process."""
        engine = self.engine.resolved()
        name = f"engine-{engine.engine_id}-{uuid.uuid4().hex[:8]}"
        return KeeperSettings(
            engine=engine,
            folder=str(folder),
            token_folder=str(self.state_folder),
            address=self.ray_address,
            actor_names=tuple(f"{name}-{index}" for index in range(self.num_replicas)),
            start_timeout_seconds=self.start_timeout_seconds,
            idle_timeout_seconds=self.idle_timeout_seconds if is_warm else None,
        )


@dataclass(frozen=True)
class Connection:
    """This process's connection to the Ray where the engines are."""

    actor_names: tuple[str, ...]  # of the engines
    start_timeout_seconds: float
    close: Callable[[], None]  # ends what was started for this process; may be called twice


def connect_or_start(settings: ClusterSettings, notify: Notify) -> RayGenerator:
    """Return a generator over the warm engine with these settings, or over one started for this process.

    Its `close` ends what was started here; so does the end of this process, however it comes. May be called
    from any thread, but one process has one generator at a time.

    Raises:
        EnvironmentBrokenError: Ray or vLLM is not installed, or Ray does not start.
        ModelUnavailableError: there is no checkpoint at `settings.engine.model_path`.
        GeneratorError: the engine did not start.
    """
    connection = connect(settings, notify)
    try:
        return attach(connection.actor_names, connection.start_timeout_seconds, on_close=connection.close)
    except BaseException:
        connection.close()
        raise


def connect(settings: ClusterSettings, notify: Notify) -> Connection:
    """Return a connection to the warm engine, or to one started for this process; see `connect_or_start`."""
    ray_runtime.require_engine()
    warm = warm_state.read(settings.state_folder)
    if warm is not None and warm.engine_id == settings.engine.resolved().engine_id:
        warm = await_warm(settings.state_folder, notify)
        if warm is not None:
            notify("using the warm engine")
            return _join(warm, settings, contextlib.ExitStack())
    elif warm is not None:
        notify(f"the warm engine has other settings ({warm.model}); starting one for this run alone")
    notify("starting the engine (usually about half a minute on a CPU)")
    with contextlib.ExitStack() as stack:
        folder = ray_runtime.make_folder("engine")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        keeper = Keeper(settings.keeper(folder, is_warm=False))
        stack.callback(keeper.stop)
        return _join(keeper.wait(notify), settings, stack.pop_all())
    raise AssertionError("unreachable: the stack swallows nothing")


def join_cluster(address: str) -> Connection:
    """Return a connection to a Ray cluster on which no engine is needed.

    Raises:
        EnvironmentBrokenError: none answers there.
    """
    ray_runtime.join_ray(address)
    close = partial(ray_runtime.stop_ray, None)
    atexit.register(close)
    return Connection((), 0.0, close)


def attach(
    actor_names: Sequence[str], start_timeout_seconds: float, *, on_close: Callable[[], None] = lambda: None
) -> RayGenerator:
    """Return a generator over the engines of these names, in a process that is connected to their Ray."""
    import ray  # only now: Ray reads its variables, which `join_ray` sets, when it is imported

    handles = [ray.get_actor(name, namespace=ray_runtime.NAMESPACE) for name in actor_names]
    client = uuid.uuid4().hex
    closed = _stay_known(handles, client)
    atexit.register(closed.set)  # before the connection ends

    def close() -> None:
        closed.set()
        on_close()

    replicas = [
        RayReplica(handle, client=client, start_timeout_seconds=start_timeout_seconds) for handle in handles
    ]
    return RayGenerator(replicas, on_close=close)


def _join(state: WarmState, settings: ClusterSettings, stack: contextlib.ExitStack) -> Connection:
    """Connect to the engine's Ray; `stack` holds what the connection's `close` undoes."""
    with stack:
        is_local = settings.ray_address is None
        ray_runtime.join_ray(state.address, settings.state_folder if is_local else None)
        stack.callback(ray_runtime.stop_ray, None)
        close = stack.pop_all().close
        atexit.register(close)
        return Connection(state.actor_names, settings.start_timeout_seconds, close)
    raise AssertionError("unreachable: the stack swallows nothing")


def _stay_known(handles: list[Any], client: str) -> threading.Event:
    """Tell the engines now and again that this client is there, until the event that is returned is set."""
    closed = threading.Event()

    def touch() -> None:
        while not closed.wait(TOUCH_SECONDS):
            for handle in handles:
                with contextlib.suppress(Exception):  # a dead engine shows where it is used
                    handle.touch.remote(client)

    threading.Thread(target=touch, name="engine-touch", daemon=True).start()
    return closed
