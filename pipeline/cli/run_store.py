"""The runs that are kept: their ids, their folders, and which of them is being worked on."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pipeline.cli.home import runs_root
from pipeline.exceptions import EnvironmentBrokenError, InputError
from pipeline.runs import RunFolder, RunRecord

_VALID_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LOCK = "command.lock"  # held by the command, from composing to the report
_GRAPH_LOCK = "run.lock"  # held by `run_task`, also where no command calls it
TASK_FILE = "task.json"  # written before anything else of a run
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no letters that are taken for each other


def new_run_id(now: datetime | None = None) -> str:
    """Return an id whose order is that of time: "261121-143005-k3f"."""
    moment = (now or datetime.now(UTC)).strftime("%y%m%d-%H%M%S")
    return f"{moment}-{''.join(secrets.choice(_ALPHABET) for _ in range(3))}"


def create_run(run_id: str = "") -> RunFolder:
    """Make the folder of a new run.

    Raises:
        InputError: the id is not usable as a folder's name, or is taken.
        EnvironmentBrokenError: the folder cannot be written.
    """
    run_id = run_id or new_run_id()
    if not _VALID_ID.fullmatch(run_id):
        raise InputError(
            f"{run_id!r} cannot be a run id",
            hint="use up to 100 letters, digits, dots, dashes and underscores",
        )
    path = runs_root() / run_id
    try:
        path.mkdir(parents=True)
    except FileExistsError as exc:
        if not path.is_dir():
            raise EnvironmentBrokenError(f"{runs_root()} is not a folder") from exc
        raise InputError(
            f"run {run_id} exists already", hint=f"continue it: loopwright fix --resume {run_id}"
        ) from exc
    except OSError as exc:
        raise EnvironmentBrokenError(
            f"cannot write the run folder {path}: {exc.strerror}",
            hint="set LOOPWRIGHT_HOME to a folder that you can write",
        ) from exc
    return RunFolder(path)


def find_run(wanted: str) -> RunFolder:
    """Return the run with this id, the one whose id begins with it, or for "last" the newest.

    Raises:
        InputError: no run, or more than one.
    """
    folders = run_folders()
    if wanted == "last" and folders:
        return folders[0]
    exact = [folder for folder in folders if folder.run_id == wanted]
    found = exact or [folder for folder in folders if wanted and folder.run_id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} runs begin with {wanted!r}" if found else f"there is no run {wanted!r}"
    raise InputError(problem, hint="`loopwright runs list` shows them")


def run_folders() -> list[RunFolder]:
    """Return all runs, newest first."""
    try:
        paths = [path for path in runs_root().iterdir() if path.is_dir() and _VALID_ID.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise EnvironmentBrokenError(f"cannot read {runs_root()}: {exc.strerror}") from exc
    return [RunFolder(path) for path in sorted(paths, key=lambda p: (_made_at(p), p.name), reverse=True)]


def load_run(folder: RunFolder) -> RunRecord:
    """Return a run's record; one that says it is running although nobody works on it was interrupted.

    Raises:
        InputError: the run has no readable record.
    """
    record = folder.load()
    if record.status == "running" and not _is_locked(folder):
        record = record.model_copy(update={"status": "interrupted"})
    return record


@contextmanager
def working_on(folder: RunFolder) -> Iterator[None]:
    """Hold the run for this process.

    Raises:
        InputError: another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.path / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as exc:
        raise InputError(f"run {folder.run_id} is being worked on by another process") from exc
    try:
        yield
    finally:
        lock.release()


def _is_locked(folder: RunFolder) -> bool:
    from filelock import FileLock, Timeout

    for name in (_LOCK, _GRAPH_LOCK):
        try:
            with FileLock(folder.path / name, timeout=0):
                pass
        except Timeout:
            return True
    return False


def _made_at(path: Path) -> str:
    # Ids of our own sort by themselves; one that the user chose is placed by the age of its first file.
    if re.fullmatch(r"\d{6}-\d{6}-\w{3}", path.name):
        return path.name[:13]
    first = path / TASK_FILE if (path / TASK_FILE).exists() else path
    return datetime.fromtimestamp(first.stat().st_mtime, UTC).strftime("%y%m%d-%H%M%S")
