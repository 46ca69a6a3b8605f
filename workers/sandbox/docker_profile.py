"""The Docker sandbox's profile: a container's configuration, exactly as it is sent to the engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pipeline.core import Mount, SandboxLimits, SandboxRequest
from workers.sandbox.mounts import requested
from workers.sandbox.owner import this_process
from workers.sandbox.supervisor import HOSTNAME, RESULTS, SANDBOX_UID, WORKSPACE, Script, environment

LABEL = "io.loopwright.sandbox"
OWNER_LABEL = "io.loopwright.owner"
RUN_LABEL = "io.loopwright.run"
DEADLINE_LABEL = "io.loopwright.deadline"  # unix seconds

PATH = "/usr/local/bin:/usr/bin:/bin"
RESULTS_BYTES = 64 << 20
SELF_DESTRUCT_SECONDS = 180  # beyond the wall limit: for a container whose owner died before the next reaping
_SHARED_MEMORY_BYTES = 64 << 20
_NUM_OPEN_FILES = 4096


def lifetime_seconds(limits: SandboxLimits) -> int:
    """Return after how long a container ends by itself."""
    return round(limits.wall_seconds) + SELF_DESTRUCT_SECONDS


def container(request: SandboxRequest, script: Script, image: str, deadline: int) -> dict[str, Any]:
    """Return the body of the engine's call that creates the container."""
    return {
        "Image": image,
        "Entrypoint": ["timeout", "-s", "KILL", str(lifetime_seconds(request.limits))],
        "Cmd": list(script.argv),
        "User": _user(requested(request)),
        "Env": [f"{name}={value}" for name, value in environment(request, PATH).items()],
        "WorkingDir": WORKSPACE,
        "Hostname": HOSTNAME,
        "Labels": {
            LABEL: "1",
            OWNER_LABEL: str(this_process()),
            RUN_LABEL: request.run_id,
            DEADLINE_LABEL: str(deadline),
        },
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "NetworkDisabled": not request.network,
        "HostConfig": _host_config(request),
    }


def _host_config(request: SandboxRequest) -> dict[str, Any]:
    limits = request.limits
    return {
        "NetworkMode": "bridge" if request.network else "none",
        "CapDrop": ["ALL"],
        "Privileged": False,
        "SecurityOpt": ["no-new-privileges"],  # and Docker's own seccomp profile, which is kept
        "ReadonlyRootfs": True,
        "Tmpfs": {
            WORKSPACE: _tmpfs(limits.disk_bytes),
            RESULTS: _tmpfs(min(RESULTS_BYTES, limits.disk_bytes)),
            "/tmp": _tmpfs(limits.disk_bytes),  # noqa: S108 - inside the sandbox
        },
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # the sum: no swap
        "PidsLimit": limits.num_pids,
        "NanoCpus": int(min(limits.num_cpus, os.cpu_count() or 1) * 1e9),
        "Ulimits": _ulimits(limits),
        "ShmSize": _SHARED_MEMORY_BYTES,
        "Init": True,
        "IpcMode": "private",
        "LogConfig": {"Type": "none", "Config": {}},
        "Mounts": [_bind(mount) for mount in requested(request)],
    }


def _user(mounts: Sequence[Mount]) -> str:
    # A writable folder of an ordinary user can only be written by that user; root gives it away instead.
    uid, gid = SANDBOX_UID, SANDBOX_UID
    if os.geteuid() != 0 and any(not mount.read_only for mount in mounts):
        uid, gid = os.geteuid(), os.getegid()
    return f"{uid}:{gid}"


def _tmpfs(num_bytes: int) -> str:
    # exec: repositories run scripts and load libraries that their own tests wrote.
    return f"rw,exec,nosuid,nodev,size={num_bytes},mode=1777"


def _ulimits(limits: SandboxLimits) -> list[dict[str, Any]]:
    cpu_seconds = max(1, round(limits.cpu_seconds))
    values = {
        "core": (0, 0),
        "cpu": (cpu_seconds, cpu_seconds + 5),  # the signal can be caught, the second limit not
        "fsize": (limits.disk_bytes, limits.disk_bytes),
        "nofile": (_NUM_OPEN_FILES, _NUM_OPEN_FILES),
    }
    return [{"Name": name, "Soft": soft, "Hard": hard} for name, (soft, hard) in values.items()]


def _bind(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }
