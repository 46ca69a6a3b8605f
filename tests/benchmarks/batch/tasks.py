"""Task files to run a batch on: the real cases, or any number of tiny repositories."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.bench.sdist import Index
from pipeline.runs import write_atomically
from tests.benchmarks.real_cases.build import build_cases
from tests.benchmarks.real_cases.case import load_cases
from tests.integration.batch_tools import make_tasks

COMMAND = Path(sys.executable).with_name("loopwright")


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which tasks are run, on what model, and where the results go."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tasks", type=Path, help="a task file; else the real cases")
    which.add_argument("--num-tiny", type=int, help="so many tiny repositories instead")
    parser.add_argument("--limit", type=int, help="the first so many tasks alone")
    parser.add_argument("--model", default="")
    parser.add_argument("--sandbox", default="auto")
    parser.add_argument("--candidates", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)


def task_file(options: argparse.Namespace) -> Path:
    """Return the file of the tasks that are asked for, made where it has to be."""
    if options.tasks:
        return options.tasks
    folder: Path = options.out / "cases"
    path = folder / "tasks.jsonl"
    if options.num_tiny:
        if not path.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make_tasks(folder, options.num_tiny)
        return path
    tasks = build_cases(load_cases(), folder, Index())
    write_atomically(path, "".join(f"{task.model_dump_json()}\n" for task in tasks).encode())
    return path


def batch_arguments(options: argparse.Namespace, tasks: Path, out: Path, *more: str) -> list[str]:
    """Return the arguments of a batch on these tasks, all alike but for `more`."""
    arguments = [str(tasks), "--out", str(out), "--seed", str(options.seed), "--sandbox", options.sandbox]
    arguments += ["--candidates", str(options.candidates), "--rounds", str(options.rounds)]
    arguments += ["--limit", str(options.limit)] if options.limit else []
    return [*arguments, *model_arguments(options), *more]


def model_arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments that name the model."""
    return ["--model", options.model] if options.model else []


@contextlib.contextmanager
def warm_engine(options: argparse.Namespace) -> Iterator[None]:
    """Keep one engine up; it must be ours, so that nobody else's drafts are counted."""
    loopwright("down")
    loopwright("up", *model_arguments(options))
    try:
        yield
    finally:
        loopwright("down")


def loopwright(command: str, *arguments: str) -> str:
    """Run a command and return its stdout; its progress goes to our stderr."""
    done = subprocess.run([COMMAND, command, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"loopwright {command} ended with {done.returncode}")
    return done.stdout


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with the folder of the results made."""
    options = parser.parse_args(argv)
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    return options
