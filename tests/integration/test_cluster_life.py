"""How engines begin and end, seen from outside: the commands as subprocesses, and what runs after them.

Every process that a test starts inherits LOOPWRIGHT_HOME, by which it is found again wherever it went.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from model.testing import make_tiny_qwen2

pytestmark = pytest.mark.integration

_DEADLINE_SECONDS = 240.0
_USE = """
import asyncio, sys
from pipeline.cli.compose import cluster_settings
from pipeline.cli.inputs import Flags, resolve_settings
from pipeline.core import Message, Prompt, Sampling
from workers.cluster import connect_or_start

settings = cluster_settings(resolve_settings(Flags()))
with connect_or_start(settings, lambda line: print(line, file=sys.stderr, flush=True)) as generator:
    [[completion]] = asyncio.run(
        generator.generate([Prompt(messages=(Message("user", "hi"),))], Sampling(max_tokens=4))
    )
    print(completion.num_completion_tokens)
"""


@dataclass
class Home:
    """A LOOPWRIGHT_HOME of its own, and the commands in it."""

    path: Path
    model: Path

    def start(self, *arguments: str, script: str = "", **settings: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script] if script else [_script("loopwright"), *arguments]
        environment = {
            **os.environ,
            "LOOPWRIGHT_HOME": str(self.path),
            "LOOPWRIGHT_MODEL": str(self.model),
            "LOOPWRIGHT_ENGINE__MAX_MODEL_TOKENS": "512",
            "LOOPWRIGHT_ENGINE__KV_CACHE_BYTES": str(64 << 20),
            **{f"LOOPWRIGHT_ENGINE__{name.upper()}": str(value) for name, value in settings.items()},
        }
        return subprocess.Popen(
            command, env=environment, cwd=self.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str, script: str = "", **settings: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, script=script, **settings)
        stdout, stderr = process.communicate(timeout=_DEADLINE_SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def running(self) -> list[psutil.Process]:
        """Return every process, anywhere on the machine, that was started in this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("LOOPWRIGHT_HOME") == str(self.path):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_tiny_qwen2(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def home(tmp_path, model):
    home = Home(tmp_path, model)
    yield home
    # A process that was just killed may still be on its way out.
    _, left = psutil.wait_procs(home.running(), timeout=20)
    for process in left:
        process.kill()
    assert left == []


def test_a_warm_engine_is_started_once_found_by_others_and_ended_wholly(home):
    first = home.run("up", "--json")
    assert first.returncode == 0, first.stderr
    state = json.loads(first.stdout)
    assert state["health"] == "ready"
    assert _listens_only_locally(home.running())
    assert {process.nice() for process in home.running()} == {
        psutil.Process().nice()
    }  # Ray would put it last

    again = home.run("up", "--json")
    assert json.loads(again.stdout)["pid"] == state["pid"]

    used = home.run(script=_USE)
    assert (used.returncode, used.stdout) == (0, "4\n"), used.stderr
    assert "using the warm engine" in used.stderr

    other = home.run("up", max_model_tokens=256)
    assert other.returncode == 2
    assert "loopwright down" in other.stderr

    status = json.loads(home.run("status", "--json").stdout)
    assert status["is_up"]
    assert status["pid"] == state["pid"]

    assert home.run("down").returncode == 0
    _wait_until(lambda: home.running() == [])
    assert json.loads(home.run("status", "--json").stdout) == {"is_up": False}
    assert home.run("down").returncode == 0  # twice does no harm


def test_an_idle_engine_ends_by_itself_and_takes_its_ray_along(home):
    started = home.run("up", idle_timeout_seconds=1)
    assert started.returncode == 0, started.stderr
    _wait_until(lambda: home.running() == [])
    assert json.loads(home.run("status", "--json").stdout) == {"is_up": False}


def test_a_killed_run_leaves_no_engine_behind(home):
    run = home.start(script=_USE)
    _wait_until(lambda: any(_is_actor(process) for process in home.running()))
    run.kill()
    run.communicate()
    _wait_until(lambda: home.running() == [])


def test_a_killed_keeper_leaves_no_engine_behind(home):
    command = home.start("up")
    _wait_until(lambda: any(_is_engine(process) for process in home.running()))
    [keeper] = [process for process in home.running() if "workers.keeper" in process.cmdline()]
    keeper.kill()
    _, stderr = command.communicate(timeout=_DEADLINE_SECONDS)
    assert command.returncode == 4, stderr
    _wait_until(lambda: home.running() == [])


def test_an_interrupted_up_leaves_nothing_behind(home):
    command = home.start("up")
    _wait_until(lambda: any(_is_actor(process) for process in home.running()))
    command.send_signal(signal.SIGTERM)
    command.communicate(timeout=_DEADLINE_SECONDS)
    assert command.returncode == 130
    _wait_until(lambda: home.running() == [])


def test_a_checkpoint_that_cannot_be_loaded_is_said_so_and_leaves_nothing_behind(home, tmp_path):
    home.model = make_tiny_qwen2(tmp_path / "broken")
    (home.model / "model.safetensors").write_bytes(b"not weights")
    result = home.run("up")
    assert result.returncode == 4
    assert "the engine did not start" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    _wait_until(lambda: home.running() == [])


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _is_actor(process: psutil.Process) -> bool:
    return _has(process, "EngineActor")


def _is_engine(process: psutil.Process) -> bool:
    return _has(process, "EngineCore")


def _has(process: psutil.Process, text: str) -> bool:
    try:
        return text in "".join(process.cmdline())
    except psutil.Error:
        return False


def _listens_only_locally(processes: list[psutil.Process]) -> bool:
    addresses = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    return bool(addresses) and addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
