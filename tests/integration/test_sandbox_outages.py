"""What a failure of the machine does to runs: it is told as one, waited for, and never held against code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from pipeline.core import Outcome
from pipeline.exceptions import SandboxLostError
from pipeline.owner import this_process
from pipeline.protocols import Sandbox
from tests.integration.conftest import unavailable
from tests.integration.private_engine import PrivateEngine, load_image, private_engine
from tests.integration.sandbox_tools import commands, limits, processes, python, shell, token, until
from workers.sandbox.breaker import BreakerSandbox
from workers.sandbox.docker_sandbox import DockerSandbox
from workers.sandbox.supervisor import PROCESS_PREFIX

pytestmark = pytest.mark.integration

WAIT_A_LITTLE = "import time; time.sleep(3); print('done')"
KILL_SUPERVISOR = "import os, signal; os.kill(os.getppid(), signal.SIGKILL); os.read(0, 1)"
QUICK_SECONDS = 15  # for a call of the engine


@pytest.fixture(scope="module")
def engine_of_ours(
    docker_engine: docker.DockerClient, docker_sandbox: DockerSandbox
) -> Iterator[PrivateEngine]:
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        unavailable("an engine of one's own needs dockerd and root")
    with private_engine(docker_engine, docker_sandbox.image) as engine:
        yield engine


@pytest.fixture
def engine(engine_of_ours: PrivateEngine) -> Iterator[PrivateEngine]:
    """An engine of ours, which is up again after the test."""
    yield engine_of_ours
    engine_of_ours.go_on()
    if not engine_of_ours.answers():
        engine_of_ours.kill()
        engine_of_ours.start()


@pytest.fixture
def fragile(engine: PrivateEngine, docker_sandbox: DockerSandbox) -> Iterator[DockerSandbox]:
    """A sandbox on that engine."""
    with contextlib.closing(engine.client(QUICK_SECONDS)) as client:
        yield DockerSandbox(client, docker_sandbox.image)


async def test_an_engine_that_is_killed_and_started_again_costs_no_run_its_result(
    engine: PrivateEngine, fragile: DockerSandbox
) -> None:
    word, said = token(), list[str]()
    sandbox = BreakerSandbox(fragile, 120, said.append)
    runs = [asyncio.create_task(sandbox.run(python(WAIT_A_LITTLE, word))) for _ in range(2)]
    await until(lambda: len(commands(word)) == 2)
    engine.kill()
    await until(lambda: bool(said))  # it is waited for
    late = asyncio.create_task(sandbox.run(shell("echo done")))
    await asyncio.to_thread(engine.start)
    for result in await asyncio.gather(*runs, late):
        assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0), result
        assert result.stdout.text() == "done\n"


async def test_an_engine_that_is_gone_for_good_is_told_as_lost(
    engine: PrivateEngine, fragile: DockerSandbox
) -> None:
    engine.kill()
    with pytest.raises(SandboxLostError, match=r"the sandbox is lost.*does not answer"):
        await BreakerSandbox(fragile, 1).run(shell("true"))


async def test_a_run_on_an_engine_that_hangs_is_a_failure_of_the_engine(
    engine: PrivateEngine, fragile: DockerSandbox
) -> None:
    engine.hang()
    result = await fragile.run(shell("true"))
    assert (result.outcome, result.exit_code) == (Outcome.INFRA_ERROR, None)


async def test_a_run_whose_engine_hangs_past_the_time_limit_has_not_timed_out(
    engine: PrivateEngine, fragile: DockerSandbox
) -> None:
    word, said = token(), list[str]()
    sandbox = BreakerSandbox(fragile, 120, said.append)
    run = asyncio.create_task(sandbox.run(python(WAIT_A_LITTLE, word, limits=limits(wall_seconds=6))))
    await until(lambda: len(commands(word)) == 1)
    engine.hang()
    give_up_at = asyncio.get_running_loop().time() + 120
    while not said:  # the limit is over, and the engine does not say how the run stands
        assert asyncio.get_running_loop().time() < give_up_at
        await asyncio.sleep(0.1)
    engine.go_on()
    result = await run
    assert (result.outcome, result.stdout.text()) == (Outcome.EXITED, "done\n"), result


async def test_an_image_that_is_removed_is_named_and_the_sandbox_works_again_with_it(
    engine: PrivateEngine, fragile: DockerSandbox, docker_engine: docker.DockerClient
) -> None:
    with contextlib.closing(engine.client()) as client:
        client.images.remove(fragile.image, force=True)
    sandbox = BreakerSandbox(fragile, 1)
    with pytest.raises(SandboxLostError, match=fragile.image):
        await sandbox.run(shell("true"))
    await asyncio.to_thread(load_image, docker_engine, fragile.image, engine)
    assert (await sandbox.run(shell("true"))).exit_code == 0


async def test_a_full_disk_of_the_engine_is_a_failure_of_the_machine_and_is_waited_for(
    engine: PrivateEngine, fragile: DockerSandbox
) -> None:
    said, filler = list[str](), engine.data / "filler"
    sandbox = BreakerSandbox(fragile, 120, said.append)
    try:
        _fill(filler)
        result = await fragile.run(shell("true"))
        assert result.outcome is Outcome.INFRA_ERROR
        assert "no space left" in result.error
        run = asyncio.create_task(sandbox.run(shell("echo done")))
        await until(lambda: bool(said))
    finally:
        filler.unlink()
    assert (await run).stdout.text() == "done\n"


async def test_a_run_that_something_outside_kills_is_done_again(sandbox: Sandbox) -> None:
    word = token()
    run = asyncio.create_task(sandbox.run(python(WAIT_A_LITTLE, word)))
    await until(lambda: len(commands(word)) == 1)
    for process in processes(f"{PROCESS_PREFIX}{this_process()}"):
        with contextlib.suppress(Exception):
            process.kill()
    result = await run
    assert (result.outcome, result.stdout.text()) == (Outcome.EXITED, "done\n"), result


async def test_code_that_kills_its_own_sandbox_has_crashed_and_is_not_excused(sandbox: Sandbox) -> None:
    result = await sandbox.run(python(KILL_SUPERVISOR))
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 137)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for num_bytes in (1 << 20, 1 << 12):  # the last pieces are small
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(num_bytes))
