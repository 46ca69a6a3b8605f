"""Makes the repositories of a benchmark from its recipes: fetched, changed, checked, one commit each."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.bench.recipe import Recipe, injected
from pipeline.bench.repository import head_of, make_repository
from pipeline.bench.sources import Library
from pipeline.core import Task
from pipeline.exceptions import InputError
from pipeline.runs import write_atomically
from pipeline.snapshot import Snapshot
from pipeline.workspace.git import gitpython, open_scratch
from pipeline.workspace.problems import first_error

_Record = TypeVar("_Record", bound=BaseModel)


def read_tasks(path: Path) -> list[Task]:
    """Return the tasks of a file of `bench make`.

    Raises:
        InputError: it cannot be read, a line is no task, or there is none.
    """
    tasks = read_records(path, Task, id_field="task_id", file="task file", noun="task")
    if not tasks:
        raise InputError(f"{path} holds no task")
    return list(tasks.values())


def read_records(
    path: Path, model: type[_Record], *, id_field: str, file: str, noun: str
) -> dict[str, _Record]:
    """Return the records of a file of JSON lines by their ids; `file` and `noun` are for messages.

    Raises:
        InputError: it cannot be read, a line is no such record, or an id is there twice.
    """
    records: dict[str, _Record] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise InputError(f"cannot read the {file} {path}: {exc.strerror}") from exc
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = model.model_validate_json(line)
        except ValidationError as exc:
            problem = exc.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise InputError(f"{path} line {number} is no {noun}: {where} {problem['msg']}") from exc
        record_id = getattr(record, id_field)
        if record_id in records:
            raise InputError(f"{path} line {number}: {record_id} is there twice")
        records[record_id] = record
    return records


def write_tasks(tasks: Iterable[Task], path: Path) -> None:
    """Write one task a line, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A field at its default says nothing; limits are those of whoever runs the tasks.
    lines = (json.dumps(task.model_dump(mode="json", exclude_defaults=True)) for task in tasks)
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def build_tasks(tasks: Sequence[Task], out: Path, library: Library, say: Callable[[str], None]) -> list[Task]:
    """Return the tasks with `repo` and `base_commit` of their built repositories; what is built is kept.

    Raises:
        InputError: a task has no recipe, a source is not what it was, or a diff does not apply.
        EnvironmentBrokenError: a source cannot be fetched, or git fails.
    """
    built = []
    for task in tasks:
        folder, recipe = out / task.task_id, injected(task).recipe
        stamp, wanted = folder / "built.json", recipe.model_dump_json()
        if not (stamp.is_file() and stamp.read_text("utf-8") == wanted):
            say(f"building {task.task_id}")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _build(task, recipe, folder, library.tree(recipe.source))
            stamp.write_text(wanted, "utf-8")  # last: a killed build is built again
        repo = folder / "repo"
        built.append(task.model_copy(update={"repo": str(repo.resolve()), "base_commit": head_of(repo)}))
    return built


def _build(task: Task, recipe: Recipe, folder: Path, source: Snapshot) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tree = Path(scratch) / "repo"
        shutil.copytree(source.root, tree, symlinks=True)
        _apply(task, recipe.diff, tree)
        for path, digest in recipe.sha256_by_path.items():
            if hashlib.sha256(Snapshot(tree, "").read_bytes(path)).hexdigest() != digest:
                raise InputError(f"{task.task_id}: {path} is not what it was when the task was made")
        make_repository(tree)
        tree.rename(folder / "repo")


def _apply(task: Task, diff: str, tree: Path) -> None:
    with open_scratch(tree) as git:
        try:
            git.run("apply", "--whitespace=nowarn", "-", stdin=diff.encode())
        except gitpython().GitCommandError as exc:
            raise InputError(
                f"{task.task_id}: its diff does not apply: {first_error(exc)}",
                hint="is the source the one that the recipe names?",
            ) from exc
