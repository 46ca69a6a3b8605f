"""The engines themselves: the image, the choice between them, and what an engine that fails looks like."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from pipeline.core import Outcome
from pipeline.protocols import Sandbox
from tests.integration.sandbox_tools import shell
from workers.sandbox.docker_sandbox import DockerSandbox
from workers.sandbox.image import ensure_image
from workers.sandbox.selection import select_sandbox

pytestmark = pytest.mark.integration


def test_an_image_that_is_there_is_not_built_again(docker_sandbox: DockerSandbox, tmp_path: Path) -> None:
    client, said = docker.from_env(), list[str]()
    first = ensure_image(client, tmp_path / "one", on_progress=said.append)
    second = ensure_image(client, tmp_path / "two", on_progress=said.append)  # nothing is recorded there
    assert first == second
    assert first.image_id == docker_sandbox.image
    assert said == []
    (record,) = (tmp_path / "one" / "sandbox").glob("*.json")
    assert json.loads(record.read_text())["image_id"] == first.image_id


async def test_auto_takes_docker_where_an_engine_answers(
    docker_sandbox: DockerSandbox, tmp_path: Path
) -> None:
    chosen = await select_sandbox("auto", home=tmp_path)
    assert (chosen.name, getattr(chosen, "image", "")) == ("docker", docker_sandbox.image)


async def test_an_engine_that_fails_is_an_infrastructure_error(docker_engine: docker.DockerClient) -> None:
    result = await DockerSandbox(docker_engine, "loopwright-no-such-image").run(shell("true"))
    assert (result.outcome, result.exit_code) == (Outcome.INFRA_ERROR, None)
    assert "loopwright-no-such-image" in result.error


async def test_a_run_works_from_the_event_loop_of_another_thread(sandbox: Sandbox) -> None:
    result = await asyncio.to_thread(lambda: asyncio.run(sandbox.run(shell("echo here"))))
    assert result.stdout.text() == "here\n"


def test_the_check_command_reports_as_json() -> None:
    command = "from pipeline.cli import main; main()"
    words = ["sandbox", "check", "--sandbox", "bubblewrap", "--json"]
    done = subprocess.run([sys.executable, "-c", command, *words], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["sandbox"] == "bubblewrap"
    assert all(found["promises"].values())
