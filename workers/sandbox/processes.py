"""The meter for a bubblewrap run without a control group: it samples the run's processes from outside."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import psutil

from workers.sandbox.watch import Usage


@dataclass
class ProcessMeter:
    """Adds up memory and CPU seconds of a process and all below it.

    Samples can miss what lives shorter than the time between them, so this is a watchdog and no wall: the
    address-space limit of each process stands behind it.
    """

    pid: int  # first process of the run's pid namespace
    memory_bytes: int
    poll_seconds: float = 0.1
    _cpu_seconds: dict[tuple[int, float], float] = field(default_factory=dict)  # also of those that ended
    _peak_bytes: int = 0
    _over: bool = False

    def read(self) -> Usage:
        """Sample now; the last sums when the run is over."""
        resident = sum(self._sample(process) for process in self._processes())
        if resident > self.memory_bytes:
            # Forked workers share pages, and resident sets count those once for each of them.
            resident = sum(_proportional_bytes(process) for process in self._processes())
        self._peak_bytes = max(self._peak_bytes, resident)
        self._over = self._over or resident > self.memory_bytes
        cpu_seconds = sum(self._cpu_seconds.values())
        return Usage(cpu_seconds or None, self._peak_bytes or None, out_of_memory=self._over)

    def _processes(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        except psutil.Error:
            return []

    def _sample(self, process: psutil.Process) -> int:
        with contextlib.suppress(psutil.Error), process.oneshot():
            times = process.cpu_times()
            self._cpu_seconds[process.pid, process.create_time()] = times.user + times.system
            return int(process.memory_info().rss)
        return 0


def _proportional_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0
