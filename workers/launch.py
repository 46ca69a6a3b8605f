"""Starts and ends keepers: the processes that own an engine (see `workers.keeper`)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.exceptions import EngineDeadError, GeneratorError
from workers import warm_state
from workers.engine.settings import EngineSettings
from workers.warm_state import WarmState

if TYPE_CHECKING:
    import psutil

Notify = Callable[[str], None]  # receives one line on what is being waited for

_POLL_SECONDS = 0.2
_NOTIFY_SECONDS = 5.0
_STOP_SECONDS = 30.0
_LOG_FILE = "engine.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperSettings:
    """What a keeper is started with."""

    engine: EngineSettings  # resolved
    folder: str  # of its state and log
    token_folder: str  # of the Ray token
    address: str | None  # of a Ray to join; None: one of its own
    actor_names: tuple[str, ...]
    start_timeout_seconds: float
    idle_timeout_seconds: float | None  # None: it lives as long as its stdin is open

    def to_json(self) -> str:
        """Return the settings on one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> KeeperSettings:
        """Return the settings that `to_json` wrote."""
        from model.config import LoopedConfig

        values = json.loads(text)
        loop = values["engine"].pop("loop")
        engine = EngineSettings(
            **values.pop("engine"), loop=LoopedConfig.from_json_dict(loop) if loop else None
        )
        return cls(**values | {"engine": engine, "actor_names": tuple(values["actor_names"])})


class Keeper:
    """A keeper that this process started."""

    def __init__(self, settings: KeeperSettings) -> None:
        self._folder = Path(settings.folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        is_attached = settings.idle_timeout_seconds is None
        with (self._folder / _LOG_FILE).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "workers.keeper"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,  # never the repository that the user stands in
                env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
                start_new_session=True,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: `wait` says why
            self._process.stdin.write(settings.to_json().encode() + b"\n")
            self._process.stdin.flush()
            if not is_attached:
                self._process.stdin.close()

    def wait(self, notify: Notify) -> WarmState:
        """Return the state once the engine is ready, telling every few seconds that it still waits.

        Raises:
            GeneratorError: the engine did not start.
        """
        for _ in _patiently(notify):
            state = self._state()
            if state is not None and state.phase == "ready":
                return state
            if self._process.poll() is not None:
                break
        state = self._state()
        if state is not None and state.phase == "failed":
            raise GeneratorError(state.message, hint=state.hint)
        raise EngineDeadError(f"the engine's keeper ended: {self._last_words()}")

    def stop(self) -> None:
        """End the keeper, its engine and its Ray. May be called twice."""
        stop_process(self._process.pid)
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _state(self) -> WarmState | None:
        state = warm_state.load(self._folder)
        return state if state is not None and state.pid == self._process.pid else None

    def _last_words(self) -> str:
        lines = (self._folder / _LOG_FILE).read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"code {self._process.returncode}, without a word"


def await_warm(folder: Path, notify: Notify) -> WarmState | None:
    """Return the state of an engine that another process starts, once it is ready; None if it ends before."""
    for _ in _patiently(notify):
        state = warm_state.read(folder)
        if state is None or state.phase == "ready":
            return state
    return None


def _patiently(notify: Notify) -> Iterator[None]:
    """Yield a few times a second without end, telling every few seconds how long it has been."""
    started_at = notified_at = time.monotonic()
    while True:
        yield
        if time.monotonic() - notified_at > _NOTIFY_SECONDS:
            notified_at = time.monotonic()
            notify(f"waiting for the engine: {notified_at - started_at:.0f} s")
        time.sleep(_POLL_SECONDS)


def stop_process(pid: int) -> None:
    """End a process and all that it started: by SIGTERM, and by SIGKILL what is left after a while."""
    import psutil

    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return
    kill_left(tree, after_seconds=_STOP_SECONDS)


def kill_left(processes: Sequence[psutil.Process], *, after_seconds: float) -> None:
    """Give the processes this time to end, then kill those that have not."""
    import psutil

    _, left = psutil.wait_procs(processes, timeout=after_seconds)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_STOP_SECONDS)
