"""What `bench run` needs of the command line: its plan, batches as processes, and the conditions."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.errors import ExitCode
from pipeline.exceptions import EnvironmentBrokenError, InputError

if TYPE_CHECKING:
    from pipeline.bench.run import RunBatch
    from pipeline.bench.variants import Plan
    from pipeline.core import Task

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PROGRAM = "from pipeline.cli import main; main()"


def planned(file: Path | None, axes: Sequence[str], config: Path | None, *, is_grid: bool) -> Plan:
    """Return the plan of a file, with the axes, settings and design of the flags put over it.

    Raises:
        InputError: a file or an axis that cannot be read.
    """
    import yaml

    from pipeline.bench.variants import Plan, read_plan
    from pipeline.config import merge, read_yaml

    plan = read_plan(file) if file else Plan()
    values = dict(plan.axes)
    for text in axes:
        name, equals, listed = text.partition("=")
        if not equals or not listed.strip():
            raise InputError(f"--axis takes NAME=VALUE,..., not {text!r}", hint="such as --axis depth=1,2,4")
        values[name.strip()] = [yaml.safe_load(value) for value in listed.split(",")]
    settings = merge(plan.settings, read_yaml(config)) if config else plan.settings
    design = "grid" if is_grid else plan.design
    return plan.model_copy(update={"design": design, "axes": values, "settings": settings})


def selected(tasks: Sequence[Task], split: str) -> list[Task]:
    """Return the tasks of a part: dev, held_out or all.

    Raises:
        InputError: there is none.
    """
    from pipeline.bench.recipe import injected

    chosen = [task for task in tasks if split in ("all", injected(task).split)]
    if not chosen:
        found = Counter(injected(task).split for task in tasks)
        raise InputError(
            f"the file has no task of the part {split}",
            hint=f"it has {', '.join(f'{num} {name}' for name, num in sorted(found.items()))}; see --split",
        )
    return chosen


def conditions(path: Path, tasks: Sequence[Task], split: str) -> dict[str, Any]:
    """Return what a measured number must stand beside."""
    return {
        "tasks": f"{len(tasks)} of {path.name}, part {split}",
        "loopwright": version("loopwright"),
        "machine": f"{os.cpu_count()} x {_processor()}, Python {platform.python_version()}",
    }


def batch_command(workers: int | None) -> RunBatch:
    """Return what runs `loopwright batch` as a process, with an engine of its own or the warm one."""

    def run(tasks: Path, folder: Path, settings: Path) -> None:
        # What failed for reasons of infrastructure says nothing yet: it is tried again with every command.
        arguments = ["batch", str(tasks), "--out", str(folder), "--config", str(settings), "--redo", "infra"]
        if workers is not None:
            arguments += ["--workers", str(workers)]
        code = run_child([sys.executable, "-c", _PROGRAM, *arguments])
        if code == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if code == ExitCode.INPUT:
            raise InputError(f"the batch in {folder} was refused; its message stands above")
        if code != ExitCode.SOLVED:
            raise EnvironmentBrokenError(
                f"the batch in {folder} ended with exit code {code}; its message stands above"
            )

    return run


def run_child(argv: Sequence[str]) -> int:
    """Return the exit code of a command whose stdout goes to our stderr; what is to end us ends it first."""
    with subprocess.Popen(argv, stdout=sys.stderr) as process:
        signals: list[int] = []

        def pass_on(number: int, _frame: object) -> None:
            if number != signal.SIGINT:  # of Ctrl-C the terminal tells both
                process.send_signal(number)
            signals.append(number)

        before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return ExitCode.INTERRUPTED if signals else code


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
