"""Every limit is hit on purpose, in every sandbox, and nothing is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from pipeline.core import Outcome
from pipeline.owner import owned_folder
from pipeline.protocols import Sandbox
from tests.integration.sandbox_tools import (
    commands,
    containers_of,
    groups_of,
    limits,
    processes,
    python,
    shell,
    token,
    until,
)
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox
from workers.sandbox.docker_sandbox import DockerSandbox
from workers.sandbox.reaper import ReapingSandbox, reap_orphans

pytestmark = pytest.mark.integration

# Becomes a daemon in a session of its own, ignores what can be ignored, and carries the token.
DAEMON = r"""
import os, signal, sys, time
for _ in range(2):
    if os.fork():
        time.sleep(0.2 if len(sys.argv) > 2 else 600)
        os._exit(0)
    os.setsid()
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
while True:
    time.sleep(600)
"""


@pytest.fixture(params=["bubblewrap", "bubblewrap-sampled", "docker"])
def sandbox(request: pytest.FixtureRequest) -> DockerSandbox | BubblewrapSandbox:
    """Each sandbox in turn. "sampled" is bubblewrap as an ordinary user has it, without a control group."""
    if request.param == "docker":
        found: DockerSandbox = request.getfixturevalue("docker_sandbox")
        return found
    return BubblewrapSandbox(use_cgroups=request.param == "bubblewrap")


async def test_timeout_kills_daemons_and_processes_that_trap_signals(sandbox: Sandbox) -> None:
    word = token()
    result = await sandbox.run(python(DAEMON, word, limits=limits(wall_seconds=1.5)))
    assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, None)
    assert processes(word) == []


async def test_the_end_of_the_command_ends_what_it_left_running(sandbox: Sandbox) -> None:
    word = token()
    result = await sandbox.run(python(DAEMON, word, "leave"))
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0)
    assert processes(word) == []


async def test_output_before_a_timeout_is_kept(sandbox: Sandbox) -> None:
    result = await sandbox.run(shell("echo before; sleep 600", limits=limits(wall_seconds=1)))
    assert (result.outcome, result.stdout.text()) == (Outcome.TIMED_OUT, "before\n")


async def test_a_busy_loop_is_ended_by_its_cpu_limit(sandbox: Sandbox) -> None:
    result = await sandbox.run(shell("while :; do :; done", limits=limits(cpu_seconds=1)))
    assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, None)
    assert result.wall_seconds < 25


@pytest.mark.parametrize("use_cgroups", [True, False])
async def test_cpu_seconds_of_all_processes_count_together(use_cgroups: bool) -> None:
    script = "for n in 1 2 3 4; do sh -c 'while :; do :; done' & done; wait"
    request = shell(script, limits=limits(cpu_seconds=2, num_cpus=2))
    result = await BubblewrapSandbox(use_cgroups=use_cgroups).run(request)
    assert result.outcome is Outcome.TIMED_OUT
    assert result.wall_seconds < 25


COUNT_FORKS = r"""
import os, signal
children = []
try:
    while len(children) < 500:
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError:
    pass
print(len(children))
"""


async def test_processes_are_limited_in_number(sandbox: Sandbox) -> None:
    few = await sandbox.run(python(COUNT_FORKS, limits=limits(num_pids=20)))
    many = await sandbox.run(python(COUNT_FORKS, limits=limits(num_pids=60)))  # the limit is what stops it
    assert 10 < int(few.stdout.text()) < 20
    assert 50 < int(many.stdout.text()) < 60


async def test_a_fork_bomb_is_contained(sandbox: Sandbox) -> None:
    word = token()
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    result = await sandbox.run(python(bomb, word, limits=limits(wall_seconds=2, num_pids=50)))
    assert result.outcome is Outcome.TIMED_OUT
    assert processes(word) == []


BALLOON = (
    "import sys\nkept = []\nfor _ in range(int(sys.argv[1])): kept.append(b'x' * (10 << 20))\nprint('done')"
)


async def test_a_memory_balloon_is_out_of_memory(sandbox: Sandbox) -> None:
    burst = await sandbox.run(python(BALLOON, "1000", limits=limits(memory_bytes=200 << 20)))
    assert (burst.outcome, burst.exit_code) == (Outcome.OUT_OF_MEMORY, None)
    roomy = await sandbox.run(python(BALLOON, "25", limits=limits(memory_bytes=400 << 20)))
    assert (roomy.outcome, roomy.stdout.text()) == (Outcome.EXITED, "done\n")


async def test_memory_of_all_processes_counts_together(sandbox: Sandbox) -> None:
    hold = "import time; kept = b'x' * (60 << 20); time.sleep(5)"
    script = 'for n in 1 2 3 4 5; do python3 -c "$1" & done; wait'
    result = await sandbox.run(shell(script, hold, limits=limits(memory_bytes=200 << 20)))
    assert result.outcome is Outcome.OUT_OF_MEMORY


FILL = r"""
import os, sys
written = 0
try:
    for number in range(200):
        with open(os.path.join(sys.argv[1], f"file{number}"), "wb", buffering=0) as file:
            written += file.write(b"x" * (1 << 20))
except OSError:
    pass
print(written >> 20)
"""


@pytest.mark.parametrize("place", ["/workspace", "/tmp", "/results", "/dev/shm"])
async def test_disk_space_is_limited(sandbox: Sandbox, place: str) -> None:
    result = await sandbox.run(
        python(FILL, place, limits=limits(disk_bytes=16 << 20, memory_bytes=512 << 20))
    )
    limit_mib = 64 if place == "/dev/shm" else 16
    assert limit_mib - 4 <= int(result.stdout.text()) <= limit_mib


async def test_more_disk_space_can_be_given(sandbox: Sandbox) -> None:
    given = limits(disk_bytes=128 << 20, memory_bytes=512 << 20)
    result = await sandbox.run(python(FILL, "/workspace", limits=given))
    assert 100 < int(result.stdout.text()) <= 128


@pytest.mark.parametrize("stream", ["1", "2"])
async def test_endless_output_ends_the_run(sandbox: Sandbox, stream: str) -> None:
    request = shell(f"head -c 1G /dev/zero >&{stream}", limits=limits(output_bytes=1 << 20))
    result = await sandbox.run(request)
    assert (result.outcome, result.exit_code) == (Outcome.OUTPUT_LIMIT, None)
    captured = result.stdout if stream == "1" else result.stderr
    assert len(captured.head) + len(captured.tail) == 1 << 20
    assert captured.num_bytes < 64 << 20


async def test_open_files_are_limited(sandbox: Sandbox) -> None:
    code = "kept = []\ntry:\n    while True: kept.append(open('/dev/null'))\nexcept OSError: print(len(kept))"
    result = await sandbox.run(python(code))
    assert int(result.stdout.text()) < 4096


async def test_killing_the_supervisor_is_no_infrastructure_error(sandbox: Sandbox) -> None:
    result = await sandbox.run(shell("kill -KILL $PPID; sleep 600"))
    assert result.outcome is Outcome.EXITED
    assert result.exit_code not in (0, None)


async def test_cancelling_leaves_nothing_behind(sandbox: Sandbox) -> None:
    word = token()
    run = asyncio.create_task(sandbox.run(python(DAEMON, word)))
    await until(lambda: len(processes(word)) >= 3)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert processes(word) == []


@pytest.mark.parametrize("num_turns", [0, 2, 10, 100])
async def test_cancelling_at_any_point_of_the_start_leaves_nothing_behind(
    sandbox: Sandbox, num_turns: int
) -> None:
    word = token()
    run = asyncio.create_task(sandbox.run(shell("sleep 600; :", word)))
    for _ in range(num_turns):
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await until(lambda: processes(word) == [])


OWNER = r"""
import asyncio, sys
from pipeline.core import SandboxRequest
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox
from workers.sandbox.docker_sandbox import DockerSandbox, connect
from pipeline.owner import this_process

kind, image, word = sys.argv[1:]
sandbox = DockerSandbox(connect(), image) if kind == "docker" else BubblewrapSandbox()
print(this_process(), flush=True)
asyncio.run(sandbox.run(SandboxRequest(argv=("python3", "-c", "import time; time.sleep(600)", word))))
"""


def _owner_process(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OWNER, *args], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("phase", ["starting", "running"])
async def test_leftovers_of_a_killed_owner_are_reaped(sandbox: Sandbox, phase: str) -> None:
    word = token()
    image = sandbox.image if isinstance(sandbox, DockerSandbox) else "-"
    with _owner_process(sandbox.name, image, word) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        await until(
            lambda: len(commands(word) if phase == "running" else processes(word)) > (phase == "starting")
        )
        os.kill(owner.pid, signal.SIGKILL)
    await until(lambda: not commands(word) or isinstance(sandbox, DockerSandbox))
    await reap_orphans()
    await until(lambda: processes(word) == [])
    assert groups_of(name) == []
    if isinstance(sandbox, DockerSandbox):
        assert containers_of(docker.from_env(), name) == []


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_stays() -> None:
    code = "import sys\nfrom pipeline.owner import owned_folder\nwith owned_folder('test') as folder:\n"
    command = [sys.executable, "-c", code + "    print(folder, flush=True)\n    sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        os.kill(owner.pid, signal.SIGKILL)
    with owned_folder("test") as mine:
        assert left.is_dir()
        asyncio.run(reap_orphans())
        assert (left.exists(), mine.exists()) == (False, True)


async def test_the_reaper_leaves_the_living_alone(sandbox: Sandbox) -> None:
    word = token()
    code = "import time; time.sleep(600)"
    run = asyncio.create_task(sandbox.run(python(code, word, limits=limits(wall_seconds=2))))
    await until(lambda: len(commands(word)) == 1)
    await reap_orphans()
    assert len(commands(word)) == 1
    assert (await run).outcome is Outcome.TIMED_OUT


async def test_leftovers_are_removed_on_a_timer_and_the_living_left_alone(
    docker_sandbox: DockerSandbox,
) -> None:
    killed, mine = token(), token()
    reaping = ReapingSandbox(docker_sandbox, every_seconds=0.1)
    run = asyncio.create_task(reaping.run(python("import time; time.sleep(600)", mine)))
    with _owner_process("docker", docker_sandbox.image, killed) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        await until(lambda: len(commands(killed)) == len(commands(mine)) == 1)
        owner.kill()
    with contextlib.closing(docker.from_env()) as client:
        await until(lambda: containers_of(client, name) == [])
    assert len(commands(mine)) == 1
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await reaping.close()


async def test_leftovers_are_removed_at_exit(docker_sandbox: DockerSandbox) -> None:
    word = token()
    reaping = ReapingSandbox(docker_sandbox)
    with _owner_process("docker", docker_sandbox.image, word) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        await until(lambda: len(commands(word)) == 1)
        owner.kill()
    await reaping.close()
    with contextlib.closing(docker.from_env()) as client:
        assert containers_of(client, name) == []
