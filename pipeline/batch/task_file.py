"""Reads a file of tasks, a JSON object a line: SWE-bench instances, or tasks as loopwright writes them.

The file is never held whole: `scan` says of every line what it is, `instance` reads one again when its turn
comes. A line that cannot be used is an entry with an error, and the others are not touched by it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.config import merge
from pipeline.core import Limits, Task
from pipeline.exceptions import InputError
from pipeline.text import printable, size
from pipeline.workspace.clone import is_url

MAX_LINE_BYTES = 16 << 20  # a longer line is refused unread
MAX_STATEMENT_CHARS = 1 << 20  # a longer statement is refused, as `fix` does: half an issue would mislead
_USABLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_HEAD_BYTES = 64 << 10  # of a line that is too long: searched for its id
_ID_FIELD = re.compile(rb'"(?:instance_id|task_id)"\s*:\s*"([^"\\]{1,200})"')
_GITHUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the file."""

    line: int  # counts from 1
    offset: int  # in bytes
    instance_id: str  # "line 7" where the line has none that can be used
    digest: str = ""  # of its task; empty where it has none
    error: str = ""  # why it cannot be run


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One task of the file, to be worked on."""

    task: Task
    line: int
    digest: str


class TaskFile:
    """A file of tasks. Paths in it are relative to its folder."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self._folder = path.absolute().parent
        self._limits = limits  # of every task, but for what its line says

    def scan(self) -> list[Entry]:
        """Return an entry for every line that is not blank.

        Raises:
            InputError: the file cannot be read, or holds nothing.
        """
        taken: dict[str, int] = {}
        try:
            with self.path.open("rb") as stream:
                entries = [self._entry(line, taken) for line in _lines(stream) if line.data.strip()]
        except OSError as exc:
            raise InputError(f"cannot read the task file {self.path}: {exc.strerror}") from exc
        if not entries:
            raise InputError(f"the task file {self.path} holds no task", hint="one JSON object a line")
        return entries

    def instance(self, entry: Entry) -> Instance:
        """Return the instance of an entry without an error.

        Raises:
            InputError: the file is no longer the one that was scanned.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(entry.offset)
                task = read_task(stream.readline(MAX_LINE_BYTES + 1), self._folder, self._limits)
        except (OSError, InputError) as exc:
            raise _changed(self.path) from exc
        if digest_of(task) != entry.digest:
            raise _changed(self.path)
        return Instance(task=task, line=entry.line, digest=entry.digest)

    def _entry(self, line: _Line, taken: dict[str, int]) -> Entry:
        name, digest, error = _named_in(line.data[:_HEAD_BYTES]), "", ""
        try:
            if line.is_too_long:
                raise InputError(f"it is longer than {size(MAX_LINE_BYTES)}")
            task = read_task(line.data, self._folder, self._limits)
            name, digest = task.task_id, digest_of(task)
            if name in taken:
                raise InputError(f"its id {name} is that of line {taken[name]}")
        except InputError as exc:
            error = f"line {line.number} cannot be used: {printable(str(exc))}"
        if not name or name in taken:
            name = f"line {line.number}"
        taken[name] = line.number
        return Entry(line.number, line.offset, name, "" if error else digest, error)


def read_task(data: bytes, folder: Path, limits: Limits) -> Task:
    """Return the task of a line; `folder` is what its paths are relative to, `limits` hold where it has none.

    Raises:
        InputError: it is no task; the message says why.
    """
    values = _object(data)
    try:
        is_ours = "task_id" in values and "instance_id" not in values
        task = _own_task(values) if is_ours else _SweBenchInstance.model_validate(values).task()
    except ValidationError as exc:
        raise InputError("; ".join(_problem(error) for error in exc.errors()[:3])) from exc
    if len(task.statement) > MAX_STATEMENT_CHARS:
        raise InputError(
            f"its statement has {len(task.statement):,} characters, more than {MAX_STATEMENT_CHARS:,}"
        )
    # A limit that a line leaves at its default is not meant to undo what the settings say.
    own = task.limits.model_dump(exclude_defaults=True)
    both = Limits.model_validate(merge(limits.model_dump(), own))
    return task.model_copy(
        update={"repo": _located(task.repo, folder, may_be_github=not is_ours), "limits": both}
    )


def digest_of(task: Task) -> str:
    """Return a hash of everything that the task says."""
    return hashlib.sha256(task.model_dump_json().encode()).hexdigest()


def _listed(value: Any) -> Any:
    """Return a list of test ids, which SWE-bench writes as JSON inside a string."""
    if value is None or value == "":
        return ()
    return json.loads(value) if isinstance(value, str) else value


_TestIds = Annotated[tuple[str, ...], BeforeValidator(_listed)]
_Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class _SweBenchInstance(BaseModel):
    """A line of a SWE-bench file, with two fields more that it may have."""

    model_config = ConfigDict(extra="allow")

    instance_id: str
    repo: str = Field(min_length=1)
    base_commit: str | None = None
    problem_statement: _Text = ""
    FAIL_TO_PASS: _TestIds = ()  # empty: whatever fails on the base
    PASS_TO_PASS: _TestIds = ()
    test_patch: _Text = ""
    test_command: str = Task.model_fields["test_command"].default
    kind: Literal["fix", "implement"] = "fix"

    def task(self) -> Task:
        """Return it as a task; what it says beyond a task's fields is kept in the metadata."""
        return Task(
            task_id=_usable(self.instance_id),
            repo=self.repo,
            base_commit=self.base_commit or None,
            statement=self.problem_statement,
            test_command=self.test_command,
            fail_to_pass=self.FAIL_TO_PASS,
            pass_to_pass=self.PASS_TO_PASS,
            test_patch=self.test_patch,
            kind=self.kind,
            metadata=self.model_extra or {},
        )


def _own_task(values: Mapping[str, Any]) -> Task:
    known = {name: value for name, value in values.items() if name in Task.model_fields}
    unknown = {name: value for name, value in values.items() if name not in known}
    metadata = known.get("metadata", {})
    if isinstance(metadata, Mapping) and unknown:
        if twice := sorted(unknown.keys() & metadata.keys()):
            raise InputError(f"{twice[0]} stands twice, beside its metadata and in it")
        known["metadata"] = {**metadata, **unknown}
    if isinstance(known["task_id"], str):
        _usable(known["task_id"])
    return Task.model_validate(known)


def _usable(instance_id: str) -> str:
    if not _USABLE_ID.fullmatch(instance_id):
        raise InputError(
            f"its id {instance_id[:80]!r} cannot name a folder: "
            "up to 200 letters, digits, dots, dashes and underscores, a letter or digit first"
        )
    return instance_id


def _located(repo: str, folder: Path, *, may_be_github: bool) -> str:
    """Return the repository as an absolute path or a URL; `owner/name` means GitHub where it is no folder."""
    if is_url(repo):
        return repo
    if "\0" in repo:
        raise InputError("its repository is no path: it holds a zero byte")
    try:
        path = folder / Path(repo).expanduser()
        if may_be_github and _GITHUB_NAME.fullmatch(repo) and not path.exists():
            return f"https://github.com/{repo}.git"
    except (OSError, ValueError, RuntimeError) as exc:
        raise InputError(f"its repository {repo[:80]!r} is no path: {exc}") from exc
    return os.path.normpath(path)


class _Line(NamedTuple):
    number: int
    offset: int
    data: bytes
    is_too_long: bool


def _lines(stream: BinaryIO) -> Iterator[_Line]:
    """Yield the file's lines, of those that are too long the beginning."""
    number, offset = 1, 0
    while data := stream.readline(MAX_LINE_BYTES + 1):
        rest = data
        while len(data) > MAX_LINE_BYTES and rest and not rest.endswith(b"\n"):
            rest = stream.readline(1 << 20)
        yield _Line(number, offset, data, len(data) > MAX_LINE_BYTES)
        number, offset = number + 1, stream.tell()


def _object(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data.decode("utf-8-sig"))
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as exc:
        raise InputError(f"it is not JSON: {exc}") from exc
    if not isinstance(values, dict):
        raise InputError(f"it is JSON, but a {type(values).__name__} and no object")
    return values


def _named_in(head: bytes) -> str:
    """Return the id that a line seems to have, if it could name a folder."""
    found = _ID_FIELD.search(head)
    name = found[1].decode("utf-8", "replace") if found else ""
    return name if _USABLE_ID.fullmatch(name) else ""


def _problem(error: Any) -> str:
    return f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"


def _changed(path: Path) -> InputError:
    return InputError(
        f"the task file {path} was changed while it was worked on", hint="run the same command again"
    )
