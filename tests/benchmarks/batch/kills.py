"""Kills a batch again and again, and compares its end with that of one that was left alone.

    python -m tests.benchmarks.batch.kills --out DIR [--tasks FILE | --num-tiny 40] [--kills 10]

Each kill is SIGKILL to the command's process at a random moment. After each, nothing of the batch may still
run, and nothing that was paid for (a sandbox run, a batch of drafts) may have been paid for again. The exit
code is 1 where one of this does not hold, or an instance ended differently. With --own-engine each command
starts an engine, which must end with it; else one is kept warm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.batch.tasks import (
    COMMAND,
    add_task_options,
    batch_arguments,
    parsed,
    task_file,
    warm_engine,
)
from tests.integration.batch_tools import ledger_of, processes_of, results_of

_GONE_SECONDS = 90.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the batch undisturbed, then under kills, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".loopwright/batch-kills"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--dice", type=int, default=0, help="seed of the moments")
    parser.add_argument("--own-engine", action="store_true", help="one for each command")
    add_task_options(parser)
    options = parsed(parser, argv)
    if "LOOPWRIGHT_HOME" not in os.environ:
        raise SystemExit("set LOOPWRIGHT_HOME: by it the processes of the batch are found again")
    tasks = task_file(options)
    problems: list[str] = []
    with contextlib.nullcontext() if options.own_engine else warm_engine(options):
        seconds = _undisturbed(options, tasks)
        num_kills = _disturbed(options, tasks, seconds, problems)
    problems += _differences(options.out)
    print(
        json.dumps({"num_kills": num_kills, "undisturbed_seconds": seconds, "problems": problems}, indent=1)
    )
    return 1 if problems or num_kills < options.kills else 0


def _undisturbed(options: argparse.Namespace, tasks: Path) -> float:
    """Run the batch to its end, unless an earlier command has, and return how long it took."""
    out, clock = options.out / "undisturbed", options.out / "undisturbed.seconds"
    if not clock.exists():
        shutil.rmtree(out, ignore_errors=True)
        started = time.monotonic()
        subprocess.run(
            [COMMAND, "batch", *batch_arguments(options, tasks, out)], stdout=sys.stderr, check=True
        )
        clock.write_text(str(time.monotonic() - started))
    return float(clock.read_text())


def _disturbed(options: argparse.Namespace, tasks: Path, seconds: float, problems: list[str]) -> int:
    """Run the batch with kills until it ends, and return how many there were."""
    out, dice = options.out / "killed", random.Random(options.dice)
    shutil.rmtree(out, ignore_errors=True)
    command = [COMMAND, "batch", *batch_arguments(options, tasks, out)]
    paid: dict[Path, tuple[int, int]] = {}
    num_kills, code = 0, None
    while code is None:
        wait = dice.uniform(0, 2 * seconds / (options.kills + 1)) if num_kills < options.kills else None
        code = _run_and_kill(command, wait)
        num_kills += code is None
        now = ledger_of(out)
        print(f"{num_kills} kills, {len(now)} paid", file=sys.stderr, flush=True)
        twice = [str(path.relative_to(out)) for path, about in paid.items() if now.get(path) != about]
        problems += [f"paid for twice: {name}" for name in twice]
        problems += [f"after kill {num_kills} there still runs {name}" for name in _left(options)]
        paid = now
    if code != 0:
        problems.append(f"the batch ended with {code}")
    return num_kills


def _run_and_kill(command: Sequence[str | Path], wait_seconds: float | None) -> int | None:
    """Run the command; return its exit code, or None where it was killed before it ended."""
    with subprocess.Popen(command, stdout=sys.stderr, start_new_session=True) as process:
        try:
            return process.wait(wait_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return None


def _left(options: argparse.Namespace) -> list[str]:
    """Return what of the batch is still there after it had time to go."""
    home = Path(os.environ["LOOPWRIGHT_HOME"])
    words = ["PlannerActor", "bwrap"] + ["EngineActor", "raylet", "workers.keeper"] * options.own_engine
    deadline = time.monotonic() + _GONE_SECONDS
    while (left := processes_of(home, *words)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [f"{process.pid} {process.name()}" for process in left]


def _differences(out: Path) -> list[str]:
    expected, found = results_of(out / "undisturbed"), results_of(out / "killed")
    problems = []
    for name in sorted(expected.keys() | found.keys()):
        one, other = expected.get(name, {}), found.get(name, {})
        changed = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
        # The engine's drafts depend a little on which others are in the batch, kills or not (README.md).
        if fields := sorted(changed - {"num_tokens"}):
            problems.append(f"{name} ended differently: {', '.join(fields)}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
