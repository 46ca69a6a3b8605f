"""Removes what sandboxes of dead processes left: containers, processes, control groups, folders of builds.

Every command that chooses a sandbox does so at once; long ones go on with it on a timer, and at their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.core import SandboxRequest, SandboxResult
from pipeline.exceptions import EnvironmentBrokenError, SandboxError
from pipeline.owner import FOLDER_PREFIX, Owner
from pipeline.protocols import Sandbox
from workers.sandbox import cgroups, docker_reaper, docker_sandbox
from workers.sandbox.supervisor import PROCESS_PREFIX

REAP_SECONDS = 300.0
_PING_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Reaped:
    """How much was removed."""

    num_containers: int
    num_processes: int
    num_cgroups: int
    num_folders: int


async def reap_orphans() -> Reaped:
    """Remove the leftovers of owners that are surely dead. Touches nothing of a living process."""
    return Reaped(
        num_containers=await _containers(),
        num_processes=await asyncio.to_thread(_processes),
        num_cgroups=await cgroups.reap(),
        num_folders=await asyncio.to_thread(_folders),
    )


class ReapingSandbox:
    """A Sandbox that removes orphans every so often, and when it is closed."""

    def __init__(self, inner: Sandbox, every_seconds: float = REAP_SECONDS) -> None:
        """Begin in the running event loop; nothing is removed before the first `every_seconds` are over."""
        self._inner = inner
        self.name = inner.name
        self._timer = asyncio.create_task(_reap_every(every_seconds), name="reaper")

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Run the request in the inner sandbox."""
        return await self._inner.run(request)

    async def close(self) -> None:
        """Close the inner sandbox, and remove orphans for the last time."""
        self._timer.cancel()
        await asyncio.gather(self._timer, return_exceptions=True)
        await self._inner.close()
        await reap_orphans()


async def _reap_every(seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await reap_orphans()


async def _containers() -> int:
    try:
        # One that hangs must not hold up a command; one that answers may take its time to remove.
        (await asyncio.to_thread(docker_sandbox.connect, _PING_SECONDS)).close()
        client = await asyncio.to_thread(docker_sandbox.connect)
    except EnvironmentBrokenError:
        return 0
    try:
        return await asyncio.to_thread(docker_reaper.reap, client)
    except SandboxError:  # it went away meanwhile: what is left is for the next time
        return 0
    finally:
        client.close()


def _processes() -> int:
    # bwrap dies with its owner, but for a moment while it starts: then a waiting child can be left.
    num_killed = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            names = [word for word in process.cmdline() if word.startswith(PROCESS_PREFIX)]
            owner = Owner.parse(names[0]) if names else None
            if owner and owner.is_dead and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                num_killed += 1
    return num_killed


def _folders() -> int:
    num_removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        owner = Owner.parse(folder.name)
        if owner and owner.is_dead:
            shutil.rmtree(folder, ignore_errors=True)
            num_removed += 1
    return num_removed
