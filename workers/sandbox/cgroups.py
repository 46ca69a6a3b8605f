"""A control group around one bubblewrap run, where this process may make one: memory, pids and CPU share.

Version 1 hierarchies are nested below our own group. Under version 2 a group that holds processes may not
have controlled children, so the run's group is made beside our own, where that is delegated to us.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core import SandboxLimits
from pipeline.exceptions import SandboxError
from pipeline.owner import Owner, this_process
from workers.sandbox.watch import Usage

PREFIX = "loopwright-"
_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_PERIOD_US = 100_000
_NEEDED = ("memory", "pids")  # without these there is no point
_V1_CONTROLLERS = (*_NEEDED, "cpu", "cpuacct")


@dataclass
class Cgroup:
    """One group, and the meter that reads it."""

    folders: dict[str, Path]  # by controller; "" for version 2
    poll_seconds: float = 0.2
    _last: Usage = field(default_factory=Usage)

    def add(self, pid: int) -> None:
        """Move a process, and so all that it will start, into the group."""
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def read(self) -> Usage:
        """Return the usage of all processes of the group so far."""
        with contextlib.suppress(OSError, ValueError):
            self._last = _read_v2(self.folders[""]) if "" in self.folders else _read_v1(self.folders)
        return self._last

    async def remove(self) -> None:
        """Kill what is left in the group and remove it."""
        for folder in set(self.folders.values()):
            await _remove(folder)


def parents(membership: Path = _MEMBERSHIP, root: Path = _ROOT) -> dict[str, Path]:
    """Return the folders below which a group can be made, by controller; empty when there are none.

    `membership` and `root` are where the kernel tells of groups.
    """
    found: dict[str, Path] = {}
    for line in membership.read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers:
            names = [name for name in controllers.split(",") if name in _V1_CONTROLLERS]
            found |= {name: _v1_parent(root, name, controllers, own) for name in names}
        else:
            folder = root / own.lstrip("/")
            found[""] = folder if own == "/" else folder.parent
    version_1 = {name: folder for name, folder in found.items() if name and _usable(folder)}
    if all(name in version_1 for name in _NEEDED):
        return version_1
    return {"": found[""]} if "" in found and _usable_v2(found[""]) else {}


def create(limits: SandboxLimits) -> Cgroup | None:
    """Return a new group with the limits set, or None where this process may not make one.

    Raises:
        SandboxError: the kernel refused what it allows in general.
    """
    name = f"{PREFIX}{this_process()}-{uuid.uuid4().hex[:12]}"
    folders = {controller: parent / name for controller, parent in parents().items()}
    if not folders:
        return None
    try:
        for folder in set(folders.values()):
            folder.mkdir()
        _set_limits(folders, limits)
    except OSError as error:
        for folder in set(folders.values()):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise SandboxError(f"no control group could be made: {error}") from error
    return Cgroup(folders)


def _set_limits(folders: dict[str, Path], limits: SandboxLimits) -> None:
    values = _v2_values(limits) if "" in folders else _v1_values(limits)
    for (controller, file), value in values.items():
        folder = folders.get(controller)
        if folder and (folder / file).exists():  # swap accounting and the CPU controllers may be missing
            (folder / file).write_text(str(value))


async def reap() -> int:
    """Remove the groups of dead owners; return how many."""
    num_removed = 0
    for folder in await asyncio.to_thread(_all_groups):
        owner = Owner.parse(folder.name)
        if owner and owner.is_dead:
            num_removed += await _remove(folder)
    return num_removed


def _all_groups() -> list[Path]:
    # Everywhere: the dead owner may have been in another group than ours, such as another login session's.
    return [
        Path(folder, name) for folder, names, _ in os.walk(_ROOT) for name in names if name.startswith(PREFIX)
    ]


def _v1_parent(root: Path, name: str, controllers: str, own: str) -> Path:
    mount = root / name if (root / name).is_dir() else root / controllers
    nested = mount / own.lstrip("/")
    return nested if nested.is_dir() else mount  # a container sees its own group as the root


def _usable(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and (folder / "cgroup.procs").exists()


def _usable_v2(folder: Path) -> bool:
    control = folder / "cgroup.subtree_control"
    if not _usable(folder) or not os.access(folder / "cgroup.procs", os.W_OK) or not control.exists():
        return False
    return all(name in control.read_text().split() for name in _NEEDED)


def _v1_values(limits: SandboxLimits) -> dict[tuple[str, str], int]:
    return {  # the order matters: memory and swap together may not be less than memory
        ("memory", "memory.limit_in_bytes"): limits.memory_bytes,
        ("memory", "memory.memsw.limit_in_bytes"): limits.memory_bytes,
        ("pids", "pids.max"): limits.num_pids,
        ("cpu", "cpu.cfs_period_us"): _PERIOD_US,
        ("cpu", "cpu.cfs_quota_us"): int(limits.num_cpus * _PERIOD_US),
    }


def _v2_values(limits: SandboxLimits) -> dict[tuple[str, str], int | str]:
    return {
        ("", "memory.max"): limits.memory_bytes,
        ("", "memory.swap.max"): 0,
        ("", "pids.max"): limits.num_pids,
        ("", "cpu.max"): f"{int(limits.num_cpus * _PERIOD_US)} {_PERIOD_US}",
    }


def _read_v1(folders: dict[str, Path]) -> Usage:
    memory = folders["memory"]
    cpu = folders.get("cpuacct")
    return Usage(
        cpu_seconds=int((cpu / "cpuacct.usage").read_text()) / 1e9 if cpu else None,
        peak_memory_bytes=int((memory / "memory.max_usage_in_bytes").read_text()),
        out_of_memory=_pairs(memory / "memory.oom_control").get("oom_kill", 0) > 0,
    )


def _read_v2(folder: Path) -> Usage:
    peak = folder / "memory.peak"  # kernel 5.19
    return Usage(
        cpu_seconds=_pairs(folder / "cpu.stat").get("usage_usec", 0) / 1e6,
        peak_memory_bytes=int(peak.read_text()) if peak.exists() else None,
        out_of_memory=_pairs(folder / "memory.events").get("oom_kill", 0) > 0,
    )


def _pairs(file: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in file.read_text().splitlines())}


async def _remove(folder: Path) -> bool:
    for _ in range(100):  # a killed process leaves its group a moment after the signal
        try:
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            os.rmdir(folder)
        except FileNotFoundError:
            return True
        except OSError:
            await asyncio.sleep(0.02)
        else:
            return True
    return False
