"""Who owns a run or a folder: names that tell a later process whether the owner of a leftover still lives."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER_PREFIX = "loopwright-"
_PATTERN = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, told apart from every other one on any machine and in any container, also after a reboot."""

    boot: str  # first 8 digits of the kernel's boot id
    pid_namespace: int  # inode
    pid: int
    start_ticks: int  # since boot; a pid used again has another one

    def __str__(self) -> str:
        return f"{self.boot}-{self.pid_namespace}-{self.pid}-{self.start_ticks}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner that `text` holds anywhere, if it holds one."""
        found = _PATTERN.search(text)
        return cls(found[1], int(found[2]), int(found[3]), int(found[4])) if found else None

    @property
    def is_dead(self) -> bool:
        """Whether the process is surely gone. False for one that cannot be seen from here."""
        mine = this_process()
        if (self.boot, self.pid_namespace) != (mine.boot, mine.pid_namespace):
            return False
        return _start_ticks(self.pid) != self.start_ticks


def this_process() -> Owner:
    """Return the owner that runs this code; another one after a fork."""
    return _owner(os.getpid())


@contextlib.contextmanager
def owned_folder(purpose: str) -> Iterator[Path]:
    """Yield a temporary folder, which a later command removes should this process be killed."""
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{purpose}-{this_process()}-") as name:
        yield Path(name)


@cache
def _owner(pid: int) -> Owner:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    ticks = _start_ticks(pid)
    assert ticks is not None
    return Owner(boot, os.stat("/proc/self/ns/pid").st_ino, pid, ticks)


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])
