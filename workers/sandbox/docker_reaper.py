"""Removes the containers of dead owners, and what an engine that was killed has forgotten of them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pipeline.exceptions import SandboxError
from pipeline.owner import Owner
from workers.sandbox import docker_profile
from workers.sandbox.docker_container import told_as_ours

if TYPE_CHECKING:
    import docker

_GRACE_SECONDS = 60
_CGROUPS = Path("/sys/fs/cgroup")


def reap(client: docker.DockerClient) -> int:
    """Remove the containers of dead owners, and those long past their deadline; return how many.

    Raises:
        SandboxError: the engine does not say which there are.
    """
    num_removed = 0
    with told_as_ours():
        found = client.containers.list(all=True, filters={"label": docker_profile.LABEL}, ignore_removed=True)
    for container in found:
        owner = Owner.parse(container.labels.get(docker_profile.OWNER_LABEL, ""))
        deadline = int(container.labels.get(docker_profile.DEADLINE_LABEL, "0"))
        if time.time() > deadline + _GRACE_SECONDS or (owner and owner.is_dead):
            # Another process reaps it too, or the engine takes its time: it is tried again the next time.
            with contextlib.suppress(SandboxError), told_as_ours():
                container.remove(force=True, v=True)
                num_removed += 1
                if container.status == "created":
                    _end_forgotten(str(container.id))
    return num_removed


def _end_forgotten(container_id: str) -> None:
    """End the processes that wait for a start of a container which the engine no longer knows.

    An engine that is killed while it starts a container takes it, afterwards, for one that never ran, and
    removes the record alone. containerd ends what is below a shim that dies. Only root can help here.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words and "containerd-shim" in words[0] and container_id in words:
                process.kill()
    for group in (*_CGROUPS.glob(f"*/docker/{container_id}"), _CGROUPS / "docker" / container_id):
        with contextlib.suppress(OSError):  # one that is not empty is containerd's to remove
            group.rmdir()
