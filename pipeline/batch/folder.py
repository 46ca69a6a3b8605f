"""The folder of a batch: what it was begun with, a folder for each instance, a row for each outcome.

    batch.json          the settings, which every command on the folder must share
    results.jsonl       a row for each instance that has an outcome, in the order in which they ended
    instances/<id>/     a run's folder: checkpoint, ledger, trajectory, patch, report
    predictions.jsonl   the patches as SWE-bench takes them
    index.html          the summary page

The last three can be made again from the first ones. A row counts only while its instance's folder is there.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from pipeline.batch.outcome import InstanceOutcome, Row, invalid_line
from pipeline.batch.task_file import Entry, digest_of
from pipeline.config import Settings
from pipeline.exceptions import EnvironmentBrokenError, InputError
from pipeline.runs import RunFolder, write_atomically

_WITH_PATCH = (InstanceOutcome.SOLVED, InstanceOutcome.UNSOLVED)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command on a batch has to do."""

    todo: list[Entry]  # in the order of the file
    rows: dict[str, Row]  # of all instances that have an outcome, those of no selected line included, by id


class BatchFolder:
    """The folder of one batch."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.instances = self.path / "instances"
        self.results_path = self.path / "results.jsonl"
        self.predictions_path = self.path / "predictions.jsonl"
        self.page_path = self.path / "index.html"
        self._manifest_path = self.path / "batch.json"

    @contextmanager
    def opened(self, settings: Settings) -> Iterator[None]:
        """Hold the folder for this process; makes it, where it is new.

        Raises:
            InputError: it is no batch's folder, one with other settings, or another process works on it.
            EnvironmentBrokenError: it cannot be written.
        """
        try:
            self._require_ours()
            self.instances.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise EnvironmentBrokenError(f"cannot write {self.path}: {exc.strerror}") from exc
        lock = FileLock(self.path / "batch.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as exc:
            raise InputError(f"another process works on the batch in {self.path}") from exc
        try:
            self._require_same(settings)
            yield
        finally:
            lock.release()

    def plan(self, entries: Sequence[Entry], redo: Collection[InstanceOutcome]) -> Plan:
        """Return what is to be done, and clear away what is to be done again.

        Raises:
            InputError: an instance's line says something else than when it was worked on.
        """
        for trash in self.path.glob(".trash-*"):
            shutil.rmtree(trash, ignore_errors=True)
        known = self._rows()
        selected = {entry.instance_id for entry in entries}
        todo, rows = [], {name: row for name, row in known.items() if name not in selected}
        for entry in entries:
            row = known.get(entry.instance_id)
            if entry.error:
                rows[entry.instance_id] = invalid_line(entry.instance_id, entry.line, entry.error)
            elif row is None:
                self._require_unchanged(entry, self._digest_begun(entry.instance_id))
                todo.append(entry)
            elif row.outcome in redo:
                if row.outcome is not InstanceOutcome.INFRA or row.digest != entry.digest:
                    self._discard(entry.instance_id)  # an infra failure goes on where it was
                todo.append(entry)
            else:
                self._require_unchanged(entry, row.digest)
                rows[entry.instance_id] = row
        self._rewrite(rows.values())
        return Plan(todo, rows)

    def append(self, row: Row) -> None:
        """Keep a row, so that it is there whatever comes next."""
        with self.results_path.open("ab") as stream:
            stream.write(_line(row))
            stream.flush()
            os.fsync(stream.fileno())

    def instance(self, instance_id: str) -> RunFolder:
        """Return the run folder of an instance."""
        return RunFolder(self.instances / instance_id)

    def write_predictions(self, rows: Iterable[Row]) -> Path:
        """Write the patches of the solved, and an empty one for each unsolved, as SWE-bench takes them.

        Invalid instances and those that failed for reasons of infrastructure are left out: they count as
        not attempted.
        """
        lines = [self._prediction(row) for row in sorted(rows, key=lambda row: row.line) if _is_answer(row)]
        return write_atomically(self.predictions_path, b"".join(lines))

    def _prediction(self, row: Row) -> bytes:
        patch = self.instance(row.instance_id).path / "patch.diff"
        is_solved = row.outcome is InstanceOutcome.SOLVED
        values = {
            "instance_id": row.instance_id,
            "model_name_or_path": f"loopwright-{Path(row.model).name}",
            "model_patch": patch.read_bytes().decode() if is_solved else "",
        }
        return json.dumps(values).encode() + b"\n"

    def _require_ours(self) -> None:
        """Raise InputError where something lies in the folder that no batch has put there."""
        if self._manifest_path.exists() or not self.path.exists():
            return
        # A batch that was killed at once may have left these, without a manifest.
        ours = ("instances", "batch.lock", f".{self._manifest_path.name}.")
        if not self.path.is_dir() or any(not path.name.startswith(ours) for path in self.path.iterdir()):
            raise InputError(
                f"{self.path} is not the folder of a batch", hint="name one that is new or empty"
            )

    def _require_same(self, settings: Settings) -> None:
        """Write down what the batch is begun with, or refuse what differs from it."""
        now = settings.model_dump(mode="json")
        if not self._manifest_path.exists():
            values = {"schema_version": 1, "loopwright": version("loopwright"), "settings": now}
            write_atomically(self._manifest_path, json.dumps(values, indent=1).encode())
            return
        try:
            then = json.loads(self._manifest_path.read_bytes())["settings"]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise InputError(f"{self._manifest_path} cannot be read: {exc}") from exc
        if differing := sorted(_differing(then, now)):
            raise InputError(
                f"the batch in {self.path} was begun with other settings: {', '.join(differing[:5])}",
                hint="give the same settings, or another --out",
            )

    def _rows(self) -> dict[str, Row]:
        """Return the rows of instances that are still there; a torn last line is none."""
        try:
            data = self.results_path.read_bytes()
        except FileNotFoundError:
            return {}
        rows = {}
        for line in data.split(b"\n"):
            try:
                row = Row.model_validate_json(line)
            except ValidationError:
                continue
            if row.digest and self.instance(row.instance_id).path.is_dir():
                rows[row.instance_id] = row
        return rows

    def _rewrite(self, rows: Iterable[Row]) -> None:
        write_atomically(self.results_path, b"".join(_line(row) for row in rows))

    def _discard(self, instance_id: str) -> None:
        """Remove an instance's folder. In one step out of the way: half of one must not be resumed."""
        trash = self.path / f".trash-{uuid.uuid4().hex}"
        (self.instances / instance_id).rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def _digest_begun(self, instance_id: str) -> str:
        """Return the digest of the task that an instance without a row was begun with, or an empty string."""
        try:
            return digest_of(self.instance(instance_id).load().task)
        except InputError:
            return ""

    def _require_unchanged(self, entry: Entry, digest: str) -> None:
        if digest and digest != entry.digest:
            raise InputError(
                f"line {entry.line}: {entry.instance_id} is not the task that it was when it was worked on",
                hint=f"restore the line, give another --out, or remove {self.instances / entry.instance_id}",
            )


def _is_answer(row: Row) -> bool:
    return row.outcome in _WITH_PATCH and bool(row.model)


def _line(row: Row) -> bytes:
    return row.model_dump_json().encode() + b"\n"


def _differing(then: Any, now: Any, key: str = "") -> Iterator[str]:
    """Yield the keys under which two settings differ."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in then.keys() | now.keys():
            yield from _differing(then.get(name), now.get(name), f"{key}.{name}" if key else str(name))
    elif then != now:
        yield key
