"""The images. One further Python is built here, from a registry or as a bootstrap, which takes minutes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import docker
import pytest

from pipeline.core import Outcome, SandboxRequest
from pipeline.exceptions import EnvironmentBrokenError, SandboxError
from pipeline.snapshot import Snapshot
from tests.integration.conftest import unavailable
from workers.environment import PythonEnvironmentBuilder
from workers.sandbox.bootstrap import bootstrapped
from workers.sandbox.docker_sandbox import DockerSandbox
from workers.sandbox.image import ensure_image, smoke_tested
from workers.sandbox.image_table import of_python
from workers.sandbox.selection import image_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "modern"
version = "1.0"
requires-python = ">=3.13"
dependencies = ["six; python_version >= '3.13'"]
[tool.setuptools]
py-modules = ["modern"]
"""
TESTS = """
import sys
import six, modern

def test_python_is_one_that_the_project_allows():
    assert sys.version_info >= (3, 13)

def test_the_project_is_installed_and_its_sources_are_what_runs():
    import importlib.metadata
    assert importlib.metadata.version("modern") == "1.0"
    assert modern.__file__ == "/workspace/modern.py"
"""


@pytest.fixture
def cache() -> Iterator[Path]:
    folder = Path(f"/var/tmp/loopwright-test-images-{os.getpid()}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_project_that_refuses_the_default_python_is_tested_with_one_that_it_allows(
    docker_sandbox: DockerSandbox, shared_folder: Path, cache: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    for name, text in {"pyproject.toml": PYPROJECT, "modern.py": "", "test_modern.py": TESTS}.items():
        (tmp_path / name).write_text(text)
    choose = partial(image_for, home=shared_folder / "home", on_progress=said.append)
    # Built before, so that the preparation's time limit is not what it takes.
    if not await choose(">=3.13"):
        unavailable("\n".join(said))
    builder = PythonEnvironmentBuilder(
        docker_sandbox, cache, image=docker_sandbox.image, image_for=choose, on_progress=said.append
    )
    environment = await builder.prepare(tmp_path)
    assert environment.image not in ("", docker_sandbox.image)
    result = await docker_sandbox.run(
        SandboxRequest(
            argv=(environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            layers=(Snapshot(tmp_path, "").tar,),
            environment=environment,
        )
    )
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0), result.stdout.text() + "\n".join(said)
    assert "2 passed" in result.stdout.text()


def test_an_image_of_ones_own_is_used_as_it_is(docker_sandbox: DockerSandbox, tmp_path: Path) -> None:
    client = docker.from_env()
    tag = f"loopwright-test-own:{os.getpid()}"
    client.images.get(docker_sandbox.image).tag(*tag.split(":"))
    try:
        assert ensure_image(client, tmp_path, tag).image_id == docker_sandbox.image
    finally:
        client.images.remove(tag)
    with pytest.raises(EnvironmentBrokenError, match=tag):  # not built, either
        ensure_image(client, tmp_path, tag)


def test_an_image_that_lacks_a_program_is_not_used(
    docker_sandbox: DockerSandbox, shared_folder: Path
) -> None:
    client, spec = docker.from_env(), of_python("3.11")
    record = ensure_image(client, shared_folder / "home", spec.tag)
    with pytest.raises(SandboxError, match="no no-such-program"):
        smoke_tested(client, replace(spec, programs=("no-such-program",)), record)


def test_a_python_that_no_debian_has_is_an_error_that_says_which_can_be_had(
    docker_engine: docker.DockerClient,
) -> None:
    with pytest.raises(EnvironmentBrokenError, match=r"Python 3\.10.*no Debian") as raised:
        bootstrapped(docker_engine, of_python("3.10"), lambda _line: None)
    assert "3.11" in raised.value.hint or "debootstrap" in raised.value.hint


def test_the_images_are_listed_with_their_digests(docker_sandbox: DockerSandbox, shared_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import main; main()", "sandbox", "images"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LOOPWRIGHT_HOME": str(shared_folder / "home")},
    )
    lines = done.stdout.splitlines()
    at = lines.index(f"loopwright-python:3.11 {docker_sandbox.image}")
    assert "Python 3.11." in lines[at + 1]
    assert "packages sha256:" in lines[at + 1]
