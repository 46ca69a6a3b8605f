"""The sandbox profile as bubblewrap takes it: folders, namespaces and limits, as arguments."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.core import Mount, SandboxLimits, SandboxRequest
from pipeline.exceptions import InputError
from workers.sandbox.mounts import requested
from workers.sandbox.profiles import RESULTS, WORKSPACE, Profile

_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
)
_NETWORK_FILES = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl",
    "/etc/ca-certificates",
    "/etc/pki",
)
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
# Virtual memory is reserved far beyond use by thread stacks and allocators; real use is watched more closely.
_ADDRESS_SPACE_FACTOR = 4
_ADDRESS_SPACE_FLOOR_BYTES = 2 << 30


def etc_files(profile: Profile) -> dict[str, str]:
    """Return the files of /etc, made up so that nothing is told about the host's own users and names."""
    uid, home = profile.uid, profile.env.get("HOME", "/")
    return {
        "/etc/passwd": f"nonroot:x:{uid}:{uid}::{home}:/bin/sh\n",
        "/etc/group": f"nonroot:x:{uid}:\n",
        "/etc/hosts": f"127.0.0.1 localhost {profile.hostname}\n::1 localhost\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }


def interpreter_prefix() -> Path | None:
    """Return the prefix of the interpreter that runs us, or None where it lies in a system folder.

    Raises:
        InputError: the prefix is so high up that binding it would show a home folder.
    """
    prefix = Path(sys.base_prefix).resolve()
    if prefix.is_relative_to("/usr"):
        return None
    if prefix in (Path("/"), Path.home().resolve(), Path("/home"), Path("/root")):
        raise InputError(f"the interpreter's prefix {prefix} holds more than the interpreter")
    return prefix


def search_path() -> str:
    """Return PATH as a run sees it."""
    prefix = interpreter_prefix()
    return f"{prefix}/bin:{_SYSTEM_PATH}" if prefix else _SYSTEM_PATH


def all_mounts(request: SandboxRequest) -> tuple[Mount, ...]:
    """Return the host folders beyond the system's that a run sees. Raises InputError for an unusable one."""
    prefix = interpreter_prefix()
    own = (Mount(source=str(prefix), target=str(prefix)),) if prefix else ()
    return (*own, *requested(request))


def options(
    request: SandboxRequest,
    profile: Profile,
    mounts: Sequence[Mount],
    sources: Sequence[str],
    etc: Mapping[str, int],
) -> list[str]:
    """Return bwrap's options. `sources` says where each mount is found, `etc` has a descriptor per file."""
    limits = request.limits
    network = request.network or "net" in profile.shared_namespaces
    env = {"PATH": search_path(), **profile.env}
    return [
        *_namespaces(profile, network),
        *("--new-session", "--die-with-parent", "--cap-drop", "ALL"),
        *(word for name in profile.capabilities for word in ("--cap-add", _capability(name))),
        *("--uid", str(profile.uid), "--gid", str(profile.uid)),
        *_system(network),
        *(word for target, fd in etc.items() for word in ("--ro-bind-data", str(fd), target)),
        *("--proc", "/proc", "--dev", "/dev"),
        *_tmpfs("/dev/shm", profile.shared_memory_bytes, "1777"),  # noqa: S108 - inside the sandbox
        *("--remount-ro", "/dev"),  # a writable tmpfs without a size otherwise
        *_tmpfs("/tmp", limits.disk_bytes, "1777"),  # noqa: S108 - inside the sandbox
        *_tmpfs(WORKSPACE, limits.disk_bytes, "0755"),
        *_tmpfs(RESULTS, min(profile.results_bytes, limits.disk_bytes), "0755"),
        *_mounted(mounts, sources),
        *(("--remount-ro", "/") if profile.read_only_root else ()),
        "--clearenv",
        *(word for name, value in env.items() for word in ("--setenv", name, value)),
        *("--chdir", WORKSPACE),
    ]


def _capability(name: str) -> str:
    return name if name == "ALL" else f"CAP_{name}"


def _namespaces(profile: Profile, network: bool) -> Iterator[str]:
    shared = {*profile.shared_namespaces, *(("net",) if network else ())}
    yield from ("--unshare-user", "--unshare-pid", "--unshare-cgroup-try")
    yield from (f"--unshare-{name}" for name in ("net", "ipc", "uts") if name not in shared)
    if profile.refused_namespaces:
        yield "--disable-userns"
    if "uts" not in shared:
        yield from ("--hostname", profile.hostname)


def limited(
    argv: Sequence[str], limits: SandboxLimits, profile: Profile, *, address_space: bool
) -> tuple[str, ...]:
    """Return the command behind `prlimit`, which sets what the kernel enforces on each process.

    It runs inside the sandbox: the number of processes is counted in the sandbox's own user namespace.
    """
    cpu_seconds = max(1, round(limits.cpu_seconds))
    memory_bytes = max(_ADDRESS_SPACE_FACTOR * limits.memory_bytes, _ADDRESS_SPACE_FLOOR_BYTES)
    wanted = {
        "core": (resource.RLIMIT_CORE, profile.num_core_bytes, profile.num_core_bytes),
        "cpu": (
            resource.RLIMIT_CPU,
            cpu_seconds,
            cpu_seconds + 5,
        ),  # the signal can be caught, the second limit not
        "fsize": (resource.RLIMIT_FSIZE, limits.disk_bytes, limits.disk_bytes),
        "nofile": (resource.RLIMIT_NOFILE, profile.num_open_files, profile.num_open_files),
        "nproc": (resource.RLIMIT_NPROC, limits.num_pids, limits.num_pids),
    }
    if address_space:
        wanted["as"] = (resource.RLIMIT_AS, memory_bytes, memory_bytes)
    flags = (
        f"--{name}={_within(kind, soft)}:{_within(kind, hard)}" for name, (kind, soft, hard) in wanted.items()
    )
    return ("/usr/bin/prlimit", *flags, "--", *argv)


def _within(kind: int, value: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _system(network: bool) -> Iterator[str]:
    for folder in _SYSTEM_FOLDERS:
        if os.path.islink(folder):
            yield from ("--symlink", os.readlink(folder), folder)
        elif os.path.isdir(folder):
            yield from ("--ro-bind", folder, folder)
    for file in (*_SYSTEM_FILES, *(_NETWORK_FILES if network else ())):
        yield from ("--ro-bind-try", os.path.realpath(file), file)


def _tmpfs(target: str, num_bytes: int, mode: str) -> tuple[str, ...]:
    return ("--perms", mode, "--size", str(num_bytes), "--tmpfs", target)


def _mounted(mounts: Sequence[Mount], sources: Sequence[str]) -> Iterator[str]:
    for mount, source in zip(mounts, sources, strict=True):
        yield from ("--ro-bind" if mount.read_only else "--bind", source, mount.target)
