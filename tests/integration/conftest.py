"""Shared fixtures: a Docker engine, started for the session where none answers, and each kind of sandbox."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import docker
import pytest

from pipeline.exceptions import EnvironmentBrokenError
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox
from workers.sandbox.docker_sandbox import DockerSandbox, connect
from workers.sandbox.image import ensure_image

_START_SECONDS = 60


def unavailable(reason: str) -> NoReturn:
    """Skip, with the reason; where CI=true says that everything must be there, fail."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[docker.DockerClient]:
    """A client of the engine that runs here, or of one that is started (as root) for this session only."""
    with contextlib.ExitStack() as stack:
        try:
            client = connect()
        except EnvironmentBrokenError:
            if os.geteuid() != 0 or not shutil.which("dockerd"):
                unavailable("no Docker engine answers, and none can be started: no dockerd, or not root")
            log = tmp_path_factory.mktemp("dockerd") / "log"
            stack.enter_context(_dockerd(log))
            client = _wait_for_engine(log)
        stack.callback(client.close)
        yield client


@contextlib.contextmanager
def _dockerd(log: Path) -> Iterator[None]:
    with (
        log.open("w") as output,
        subprocess.Popen(["dockerd"], stdout=output, stderr=output, start_new_session=True) as daemon,
    ):
        try:
            yield
        finally:
            daemon.terminate()


def _wait_for_engine(log: Path) -> docker.DockerClient:
    give_up_at = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up_at:
        try:
            return connect()
        except EnvironmentBrokenError:
            time.sleep(0.2)
    unavailable(f"dockerd did not start within {_START_SECONDS} seconds: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def docker_sandbox(
    docker_engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> DockerSandbox:
    """The Docker sandbox, with its image; built when the engine has none, which takes minutes."""
    try:
        record = ensure_image(docker_engine, tmp_path_factory.mktemp("home"))
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
