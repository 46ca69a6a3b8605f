"""Removes what sandboxes of dead processes left: containers, control groups, folders of broken-off builds."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.exceptions import EnvironmentBrokenError
from workers.sandbox import cgroups, docker_sandbox
from workers.sandbox.image import TEMPORARY_PREFIX
from workers.sandbox.owner import Owner

_PING_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Reaped:
    """How much was removed."""

    num_containers: int
    num_cgroups: int
    num_folders: int


async def reap_orphans() -> Reaped:
    """Remove the leftovers of owners that are surely dead. Touches nothing of a living process."""
    return Reaped(
        num_containers=await _containers(),
        num_cgroups=await cgroups.reap(),
        num_folders=await asyncio.to_thread(_folders),
    )


async def _containers() -> int:
    try:
        client = await asyncio.to_thread(docker_sandbox.connect, _PING_SECONDS)
    except EnvironmentBrokenError:
        return 0
    try:
        return await docker_sandbox.reap(client)
    finally:
        client.close()


def _folders() -> int:
    num_removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY_PREFIX}*"):
        owner = Owner.parse(folder.name)
        if owner and owner.is_dead:
            shutil.rmtree(folder, ignore_errors=True)
            num_removed += 1
    return num_removed
