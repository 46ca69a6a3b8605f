"""Runs beside and after one another see nothing of each other, warm sandboxes included."""

from __future__ import annotations

import asyncio
import contextlib
import json

import psutil
import pytest

from pipeline.owner import this_process
from tests.integration.escape.conftest import AnySandbox, MakeSandbox
from tests.integration.sandbox_tools import processes, python, shell, token, until
from workers.sandbox.profiles import HARDENED
from workers.sandbox.supervisor import PROCESS_PREFIX

pytestmark = pytest.mark.integration

# Leaves the word wherever something can be left, and stays for a while.
LEAVE = r"""
import ctypes, os, socket, sys, time
word = sys.argv[1]
for folder in ("/tmp", "/dev/shm", "/workspace", "/results"):
    with open(f"{folder}/{word}", "w") as file:
        file.write(word)
libc = ctypes.CDLL(None)
libc.shmget(0x5EC2E7, 4096, 0o1666)
libc.mq_open(f"/{word[:20]}".encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
listener = socket.socket(socket.AF_UNIX)
listener.bind("\0" + word)
listener.listen()
server = socket.create_server(("127.0.0.1", 47111))
print("left", flush=True)
time.sleep(float(sys.argv[2]))
"""
LOOK = r"""
import ctypes, glob, json, os, socket, sys
word, found = sys.argv[1], []
for folder in ("/tmp", "/dev/shm", "/workspace", "/results"):
    found += [f"{folder}/{name}" for name in os.listdir(folder) if word in name]
libc = ctypes.CDLL(None)
if libc.shmget(0x5EC2E7, 4096, 0) != -1:
    found.append("shared memory")
if libc.mq_open(f"/{word[:20]}".encode(), os.O_RDWR) != -1:
    found.append("message queue")
for family, address in ((socket.AF_UNIX, "\0" + word), (socket.AF_INET, ("127.0.0.1", 47111))):
    with socket.socket(family) as connection:
        if connection.connect_ex(address) == 0:
            found.append(str(family))
for path in glob.glob("/proc/[0-9]*/cmdline"):
    if f"python3\0-c" in open(path).read() and path != f"/proc/{os.getpid()}/cmdline":
        found.append("process")
print(json.dumps(found))
"""


async def test_what_is_looked_for_can_be_found(sandbox: AnySandbox) -> None:
    word = token()
    script = 'python3 -c "$1" "$3" 5 & sleep 1; python3 -c "$2" "$3"'
    result = await sandbox.run(shell(script, LEAVE, LOOK, word))
    found = json.loads(result.stdout.text().splitlines()[-1])
    assert len(found) >= 8, found


async def test_a_run_sees_nothing_of_one_beside_it(sandbox: AnySandbox) -> None:
    word = token()
    beside = asyncio.create_task(sandbox.run(python(LEAVE, word, "3")))
    await until(lambda: len(processes(word)) > 0)
    found = []
    while not beside.done():
        found += json.loads((await sandbox.run(python(LOOK, word))).stdout.text())
    assert (await beside).stdout.text() == "left\n"
    assert found == []


@pytest.fixture
def warm_sandbox(engine: str, make_sandbox: MakeSandbox) -> AnySandbox:
    """The engine's sandbox with two that are kept up and wait."""
    return make_sandbox(engine, HARDENED, num_warm=2)


async def test_a_warm_sandbox_holds_nothing_of_the_run_before(warm_sandbox: AnySandbox) -> None:
    word = token()
    await warm_sandbox.run(shell("true"))
    for _ in range(3):
        left = await warm_sandbox.run(python(LEAVE, word, "0"))
        assert left.stdout.text() == "left\n"
        await until(lambda: warm_sandbox.num_spare > 0)
        looked = await warm_sandbox.run(python(LOOK, word))
        assert json.loads(looked.stdout.text()) == []
        await until(lambda: warm_sandbox.num_spare > 0)
    await warm_sandbox.close()


async def test_a_warm_sandbox_that_has_died_is_replaced(warm_sandbox: AnySandbox) -> None:
    for _ in range(2):
        assert (await warm_sandbox.run(shell("exit 3"))).exit_code == 3
    await until(lambda: warm_sandbox.num_spare > 0)
    for process in processes(f"{PROCESS_PREFIX}{this_process()}"):
        with contextlib.suppress(psutil.Error):
            process.kill()
    await until(lambda: warm_sandbox.num_spare == 0)
    assert (await warm_sandbox.run(shell("exit 4"))).exit_code == 4
    await warm_sandbox.close()
