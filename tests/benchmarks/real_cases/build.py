"""Rebuilds the real cases: `python -m tests.benchmarks.real_cases.build --out DIR [--only ID ...]`.

For each case: DIR/<case id>/repo, a git repository with one commit (the previous release with the next
release's tests), and a line in DIR/tasks.jsonl that points there. What is there already is kept.
`--verify` runs the tests on both releases, in a sandbox.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pipeline.bench.repository import head_of, make_repository
from pipeline.bench.sdist import Index, unpack
from pipeline.core import Task
from pipeline.exceptions import EnvironmentBrokenError, InputError, LoopwrightError
from tests.benchmarks.real_cases.case import load_cases, source_of
from tests.benchmarks.real_cases.verify import verify_cases


def build_cases(tasks: Iterable[Task], out: Path, index: Index) -> list[Task]:
    """Return the tasks with `repo` and `base_commit` filled in, after building what is missing.

    Raises:
        EnvironmentBrokenError: the index or git fails.
        InputError: a file is not the one that a case was made from.
    """
    built = []
    for task in tasks:
        folder = out / task.task_id
        stamp = folder / "built.json"
        wanted = task.model_dump_json()
        if not (stamp.is_file() and stamp.read_text("utf-8") == wanted):
            print(f"building {task.task_id}", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            _build(task, folder, out / "sdists", index)
            stamp.write_text(wanted, "utf-8")  # last: a killed build is built again
        repo = folder / "repo"
        built.append(task.model_copy(update={"repo": str(repo.resolve()), "base_commit": head_of(repo)}))
    return built


def compose(task: Task, before: Path, after: Path) -> None:
    """Lay the named tests of the `after` tree over the `before` tree."""
    for name in source_of(task).test_paths:
        origin, target = after / name, before / name
        if not origin.resolve().is_relative_to(after.resolve()) or not origin.exists():
            raise InputError(f"{task.task_id}: {name} is not in the next release")
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(origin, target)


def write_tasks(tasks: Iterable[Task], path: Path) -> None:
    """Write one task a line, all or nothing."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(f"{task.model_dump_json()}\n" for task in tasks), "utf-8")
    partial.replace(path)


def _build(task: Task, folder: Path, sdists: Path, index: Index) -> None:
    source = source_of(task)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        before, after = (
            unpack(
                index.fetch(source.project, sdist.filename, sdists, sdist.sha256),
                _new_folder(Path(scratch), name),
            )
            for name, sdist in (("before", source.before), ("after", source.after))
        )
        compose(task, before, after)
        make_repository(before, "The previous release, the next one's tests")
        before.rename(folder / "repo")
        after.rename(folder / "next")  # the maintainers' answer: to verify a case, never for a prompt


def _new_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def main(argv: list[str] | None = None) -> int:
    """Build the cases asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where the repositories go")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="these cases alone")
    parser.add_argument("--verify", action="store_true", help="run the tests on both releases, in a sandbox")
    options = parser.parse_args(argv)
    try:
        tasks = load_cases(only=options.only)
        built = build_cases(tasks, options.out, Index())
        write_tasks(built, options.out / "tasks.jsonl")
        print(options.out / "tasks.jsonl")
        if options.verify:
            return 0 if asyncio.run(verify_cases(built, options.out / "environments")) else 1
    except LoopwrightError as exc:
        print(f"error: {exc}" + (f"\nhint: {exc.hint}" if exc.hint else ""), file=sys.stderr)
        return 4 if isinstance(exc, EnvironmentBrokenError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
