"""What a request brings along: host folders, checked before any engine gets them, and perhaps an image."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pipeline.core import Mount, SandboxRequest
from pipeline.exceptions import InputError
from workers.sandbox.profiles import RESULTS, WORKSPACE

# What the sandbox itself puts there, and what would hand it the host.
_RESERVED = ("/proc", "/sys", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib64", RESULTS, WORKSPACE)
_NEVER_SOURCES = ("/", "/proc", "/sys", "/dev", "/run", "/var/run", "/root", "/home", "/etc")


def requested(request: SandboxRequest) -> tuple[Mount, ...]:
    """Return the mounts of the request and of its environment, outer targets before inner ones.

    Raises:
        InputError: a source that is missing or would hand over the host, or a target the sandbox keeps.
    """
    prepared = request.environment.mounts if request.environment else ()
    mounts = (*prepared, *request.mounts)
    for mount in mounts:
        _check(mount)
    return tuple(sorted(mounts, key=lambda mount: PurePosixPath(mount.target).parts))


def image_of(request: SandboxRequest) -> str:
    """Return the image that the request or its environment names, or "" for the sandbox's own."""
    return request.image or (request.environment.image if request.environment else "")


def hand_over(mounts: Iterable[Mount], uid: int) -> None:
    """Give writable folders to the uid that a run has on this host: not ours when we are root."""
    if os.geteuid() == 0:
        for mount in mounts:
            if not mount.read_only:
                os.chown(mount.source, uid, uid, follow_symlinks=False)


def _check(mount: Mount) -> None:
    source, target = Path(mount.source), PurePosixPath(mount.target)
    if not source.is_absolute() or not source.exists():
        raise InputError(f"cannot mount {mount.source}: not an absolute path that exists")
    if str(source.resolve()) in _NEVER_SOURCES or source.is_socket():
        raise InputError(f"{mount.source} is never shown to a sandbox")
    if not target.is_absolute() or ".." in target.parts or str(target) == "/":
        raise InputError(f"cannot mount on {mount.target}: not an absolute path below the root")
    if any(target.is_relative_to(reserved) for reserved in _RESERVED):
        raise InputError(f"cannot mount on {mount.target}: the sandbox keeps that place for itself")
