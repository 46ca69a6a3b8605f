"""What code in a sandbox cannot see or reach: the host's files, network, processes and kernel interfaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.protocols import Sandbox
from tests.integration.sandbox_tools import commands, python, shell, token, until
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox
from workers.sandbox.selfcheck import check_promises

pytestmark = pytest.mark.integration


async def test_the_self_check_finds_every_promise_kept(sandbox: Sandbox) -> None:
    promises = await check_promises(sandbox)
    assert [promise for promise, kept in promises.items() if not kept] == []


async def test_code_is_not_root_on_the_host_either(sandbox: Sandbox) -> None:
    word = token()
    run = asyncio.create_task(sandbox.run(python("import time; time.sleep(60)", word)))
    try:
        await until(lambda: len(commands(word)) == 1)
        uids = commands(word)[0].uids()
        assert 0 not in (uids.real, uids.effective, uids.saved)
    finally:
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run


async def test_the_hosts_homes_and_files_are_invisible(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    places = [str(secret), __file__, str(Path.home() / ".ssh")]
    script = 'for place; do if [ -r "$place" ]; then echo "$place"; fi; done; hostname'
    result = await sandbox.run(shell(script, *places))
    assert result.stdout.text() == "sandbox\n"


async def test_no_process_of_the_host_is_visible(sandbox: Sandbox) -> None:
    result = await sandbox.run(shell("cat /proc/[0-9]*/comm"))
    assert set(result.stdout.text().split()) <= {"bwrap", "sh", "cat", "timeout", "docker-init", "tini"}


CONNECTS = r"""
import json, socket, sys

def reached(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(address)
            return True
        except OSError:
            return False

port, gateway, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
found = {
    "loopback": reached(socket.AF_INET, ("127.0.0.1", port)),
    "gateway": reached(socket.AF_INET, (gateway, port)),
    "metadata": reached(socket.AF_INET, ("169.254.169.254", 80)),
    "abstract": reached(socket.AF_UNIX, "\0" + name),
}
try:
    socket.getaddrinfo("pypi.org", 443)
    found["dns"] = True
except OSError:
    found["dns"] = False
print(json.dumps([name for name, value in found.items() if value]))
"""


@pytest.fixture
def listeners() -> Iterator[tuple[int, str, str]]:
    """A TCP port on every address of this host, one of its addresses, and an abstract Unix socket."""
    name = f"loopwright-test-{uuid.uuid4().hex}"
    with socket.create_server(("0.0.0.0", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address would be used
            own_address = probe.getsockname()[0]
        yield tcp.getsockname()[1], own_address, name


async def test_no_network_is_reachable(sandbox: Sandbox, listeners: tuple[int, str, str]) -> None:
    port, address, name = listeners
    result = await sandbox.run(python(CONNECTS, str(port), address, name))
    assert json.loads(result.stdout.text()) == []


async def test_the_same_probe_reaches_the_host_when_the_network_is_given(
    listeners: tuple[int, str, str],
) -> None:
    port, address, name = listeners
    result = await BubblewrapSandbox().run(python(CONNECTS, str(port), address, name, network=True))
    assert {"loopback", "gateway", "abstract"} <= set(json.loads(result.stdout.text()))


async def test_loopwright_itself_cannot_be_imported_inside(sandbox: Sandbox) -> None:
    result = await sandbox.run(python("import pipeline.core"))
    assert result.exit_code == 1
    assert "ModuleNotFoundError" in result.stderr.text()
