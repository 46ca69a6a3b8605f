"""Shared fixtures: a Docker engine, started for the session where none answers, and each kind of sandbox.

The tests may run in several processes (pytest-xdist): those share one engine and one image.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import docker
import psutil
import pytest
from filelock import FileLock

from pipeline.exceptions import EnvironmentBrokenError
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox
from workers.sandbox.docker_sandbox import DockerSandbox, connect
from workers.sandbox.image import ensure_image

_WAIT_SECONDS = 60


def unavailable(reason: str) -> NoReturn:
    """Skip, with the reason; where CI=true says that everything must be there, fail."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Say which tests share a process, where there are several."""
    from tests.integration.scheduling import Scheduling

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all of its processes see."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def docker_engine(shared_folder: Path) -> Iterator[docker.DockerClient]:
    """A client of the engine that runs here, or of one that is started (as root) for this session only."""
    with _engine(shared_folder / "dockerd"), contextlib.closing(connect()) as client:
        yield client


@contextlib.contextmanager
def _engine(folder: Path) -> Iterator[None]:
    """Have an engine answer; one that is started here ends with the last process that uses it."""
    folder.mkdir(exist_ok=True)
    lock, pid, user = FileLock(folder / "lock"), folder / "pid", folder / f"user-{os.getpid()}"
    with lock:
        if not _answers():
            pid.write_text(str(_start_engine(folder / "log")))
        user.touch()
    try:
        yield
    finally:
        with lock:
            user.unlink()
            if pid.exists() and not any(folder.glob("user-*")):
                _end_engine(int(pid.read_text()))
                pid.unlink()


def _answers() -> bool:
    try:
        connect().close()
    except EnvironmentBrokenError:
        return False
    return True


def _start_engine(log: Path) -> int:
    """Start dockerd; return its process id once it answers."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        unavailable("no Docker engine answers, and none can be started: no dockerd, or not root")
    with log.open("w") as output:
        daemon = subprocess.Popen(["dockerd"], stdout=output, stderr=output, start_new_session=True)
    give_up_at = time.monotonic() + _WAIT_SECONDS
    while not _answers():
        if time.monotonic() > give_up_at:
            _end_engine(daemon.pid)
            unavailable(f"dockerd did not start within {_WAIT_SECONDS} seconds: {log.read_text()[-2000:]}")
        time.sleep(0.2)
    return daemon.pid


def _end_engine(pid: int) -> None:
    give_up_at = time.monotonic() + _WAIT_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        daemon = psutil.Process(pid)
        daemon.terminate()
        # Where another process of the session has started it, it stays a zombie until that one ends.
        while daemon.status() != psutil.STATUS_ZOMBIE and time.monotonic() < give_up_at:
            time.sleep(0.1)


@pytest.fixture(scope="session")
def docker_sandbox(docker_engine: docker.DockerClient, shared_folder: Path) -> DockerSandbox:
    """The Docker sandbox, with its image; built when the engine has none, which takes minutes."""
    try:
        record = ensure_image(docker_engine, shared_folder / "home")
    except EnvironmentBrokenError as error:
        unavailable(str(error))
    return DockerSandbox(docker_engine, record.image_id)


@pytest.fixture(params=["bubblewrap", "docker"])
def sandbox(request: pytest.FixtureRequest) -> DockerSandbox | BubblewrapSandbox:
    """Each sandbox in turn."""
    if request.param == "docker":
        found: DockerSandbox = request.getfixturevalue("docker_sandbox")
        return found
    return BubblewrapSandbox()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint that knows nothing, with a window of 8192 tokens."""
    from model.testing import make_tiny_qwen2

    return make_tiny_qwen2(tmp_path_factory.mktemp("tiny"), max_position_embeddings=8192)


@pytest.fixture
def engine_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home for commands that start an engine of their own on the tiny checkpoint, and bubblewrap."""
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOOPWRIGHT_SANDBOX__KIND", "bubblewrap")
    monkeypatch.setenv("LOOPWRIGHT_ENGINE__KV_CACHE_BYTES", str(64 << 20))
    monkeypatch.setenv("LOOPWRIGHT_ENGINE__MAX_MODEL_TOKENS", "8192")
    monkeypatch.setenv("LOOPWRIGHT_PLANNER__MAX_PROMPT_TOKENS", "4096")  # the tokenizer counts bytes
    return tmp_path / "home"


@pytest.fixture(scope="session")
def ray_state(tmp_path_factory) -> Path:
    """The state folder of every Ray that this process connects to: Ray reads its token once in a process."""
    return tmp_path_factory.mktemp("state")
