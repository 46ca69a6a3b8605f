"""The sandbox profile as Docker takes it: a container's configuration, exactly as the engine gets it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pipeline.core import Mount, SandboxLimits, SandboxRequest
from pipeline.owner import this_process
from workers.sandbox import seccomp, supervisor
from workers.sandbox.mounts import requested
from workers.sandbox.profiles import RESULTS, WORKSPACE, Profile

LABEL = "io.loopwright.sandbox"
OWNER_LABEL = "io.loopwright.owner"
RUN_LABEL = "io.loopwright.run"  # the one that the container was started for, or ahead of
DEADLINE_LABEL = "io.loopwright.deadline"  # unix seconds

PATH = "/usr/local/bin:/usr/bin:/bin"
SELF_DESTRUCT_SECONDS = 180  # beyond the wall limit: for a container whose owner died before the next reaping


def lifetime_seconds(limits: SandboxLimits) -> int:
    """Return after how long a container ends by itself."""
    return round(limits.wall_seconds) + SELF_DESTRUCT_SECONDS


def container(request: SandboxRequest, profile: Profile, image: str, deadline: int) -> dict[str, Any]:
    """Return the body of the engine's call that creates the container.

    Docker's own seccomp profile is kept, and ours put on top of it from within.
    """
    env = {"PATH": PATH, **profile.env}
    return {
        "Image": image,
        "Entrypoint": ["timeout", "-s", "KILL", str(lifetime_seconds(request.limits))],
        "Cmd": list(seccomp.launched(supervisor.argv(), profile)),
        "User": _user(requested(request), profile),
        "Env": [f"{name}={value}" for name, value in env.items()],
        "WorkingDir": WORKSPACE,
        **({} if "uts" in profile.shared_namespaces else {"Hostname": profile.hostname}),
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
        "NetworkDisabled": _network(request, profile) == "none",
        "HostConfig": _host_config(request, profile),
    }


def _network(request: SandboxRequest, profile: Profile) -> str:
    if "net" in profile.shared_namespaces:
        return "host"
    return "bridge" if request.network else "none"


def _host_config(request: SandboxRequest, profile: Profile) -> dict[str, Any]:
    limits, shared = request.limits, profile.shared_namespaces
    return {
        "NetworkMode": _network(request, profile),
        "CapDrop": ["ALL"],
        "CapAdd": list(profile.capabilities),
        "Privileged": False,
        **_security(profile),
        "ReadonlyRootfs": profile.read_only_root,
        "Tmpfs": {
            WORKSPACE: _tmpfs(limits.disk_bytes, profile),
            RESULTS: _tmpfs(min(profile.results_bytes, limits.disk_bytes), profile),
            "/tmp": _tmpfs(limits.disk_bytes, profile),  # noqa: S108 - inside the sandbox
        },
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # the sum: no swap
        "PidsLimit": limits.num_pids,
        "NanoCpus": int(min(limits.num_cpus, os.cpu_count() or 1) * 1e9),
        "Ulimits": _ulimits(limits, profile),
        "ShmSize": profile.shared_memory_bytes,
        "Init": True,
        "IpcMode": "host" if "ipc" in shared else "private",
        "UTSMode": "host" if "uts" in shared else "",
        "Runtime": profile.runtime,
        "LogConfig": {"Type": "none", "Config": {}},
        "Mounts": [_bind(mount) for mount in requested(request)],
    }


def _security(profile: Profile) -> dict[str, Any]:
    options = ["no-new-privileges"] if profile.no_new_privileges else []
    if profile.docker_defaults:
        return {"SecurityOpt": options}
    return {"SecurityOpt": [*options, "seccomp=unconfined"], "MaskedPaths": [], "ReadonlyPaths": []}


def _user(mounts: Sequence[Mount], profile: Profile) -> str:
    # A writable folder of an ordinary user can only be written by that user; root gives it away instead.
    uid, gid = profile.uid, profile.uid
    if os.geteuid() != 0 and any(not mount.read_only for mount in mounts):
        uid, gid = os.geteuid(), os.getegid()
    return f"{uid}:{gid}"


def _tmpfs(num_bytes: int, profile: Profile) -> str:
    # exec: repositories run scripts and load libraries that their own tests wrote.
    return ",".join(("rw", "exec", *profile.tmpfs_options, f"size={num_bytes}", "mode=1777"))


def _ulimits(limits: SandboxLimits, profile: Profile) -> list[dict[str, Any]]:
    cpu_seconds = max(1, round(limits.cpu_seconds))
    values = {
        "core": (profile.num_core_bytes, profile.num_core_bytes),
        "cpu": (cpu_seconds, cpu_seconds + 5),  # the signal can be caught, the second limit not
        "fsize": (limits.disk_bytes, limits.disk_bytes),
        "nofile": (profile.num_open_files, profile.num_open_files),
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
