"""Brings a patch back to the user's working tree: all of its files or none, and over no other change."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.exceptions import InputError
from pipeline.owner import owned_folder
from pipeline.snapshot import Snapshot
from pipeline.workspace.git import Git, gitpython, open_scratch
from pipeline.workspace.problems import explained, first_error


@dataclass(frozen=True)
class _Change:
    """What is to become of one file of the working tree."""

    path: Path
    old: bytes | None  # None: it does not exist
    new: bytes | None  # None: it is deleted
    mode: int


def apply_patch(repo: Path, diff: str, *, seen: Snapshot) -> None:
    """Apply a unified diff to the working tree at `repo`, which `seen` is a snapshot of.

    Line ends, encodings and permissions stay as they are. The index is not touched, and no git program of the
    repository runs.

    Raises:
        InputError: a touched file is not what the snapshot saw, or the diff does not apply.
        EnvironmentBrokenError: git is missing, or the disk is full. As with every error, nothing has changed.
    """
    try:
        _apply(repo.absolute(), diff, seen)
    except OSError as exc:
        raise explained(exc, repo) from exc


def _apply(repo: Path, diff: str, seen: Snapshot) -> None:
    with owned_folder("apply") as scratch:
        with open_scratch(scratch) as git:
            paths = _touched_paths(git, diff)
            for path in paths:
                _copy_file(seen.root / path, scratch / path)
            _git_apply(git, diff)
        _replace_all([_change(repo, seen, scratch, path) for path in paths])


def _touched_paths(git: Git, diff: str) -> list[str]:
    if re.search(r"^(rename|copy) (from|to) ", diff, flags=re.MULTILINE):
        raise InputError("the patch renames files", hint="apply it with `git apply`")
    out = _git_apply(git, diff, "--numstat", "-z")
    return sorted({os.fsdecode(record.split(b"\t", 2)[2]) for record in out.split(b"\0") if record})


def _git_apply(git: Git, diff: str, *options: str) -> bytes:
    try:
        text = diff.encode("utf-8", "surrogateescape")
        return git.run("apply", "--whitespace=nowarn", *options, "-", stdin=text)[1]
    except gitpython().GitCommandError as exc:
        raise InputError(
            f"the patch does not apply: {first_error(exc)}", hint="nothing was changed; start a new run"
        ) from exc


def _copy_file(source: Path, target: Path) -> None:
    if source.is_file() and not source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _change(repo: Path, seen: Snapshot, scratch: Path, path: str) -> _Change:
    target = repo / path
    if Path(os.path.realpath(target)) != Path(os.path.realpath(repo)) / path:
        raise InputError(f"{path} lies behind a link", hint="nothing was changed; apply it with `git apply`")
    old, before, after = _read(target), _read(seen.root / path), _read(scratch / path)
    if old != before:
        # A checkout with core.autocrlf has other line ends than the commit that was exported.
        if old is None or before is None or b"\r" in before or old != _with_crlf(before):
            raise InputError(
                f"{path} has changed since the run began",
                hint="nothing was changed; start a new run on it as it is",
            )
        after = None if after is None else _with_crlf(after)
    mode = stat.S_IMODE(target.stat().st_mode) if old is not None else 0o644
    if after is not None and os.access(scratch / path, os.X_OK) != bool(mode & 0o100):
        mode ^= 0o111
    return _Change(target, old, after, mode)


def _with_crlf(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def _replace_all(changes: list[_Change]) -> None:
    """Write every file beside its place, then move them all; undo what was moved if one fails."""
    done: list[_Change] = []
    staged: dict[Path, Path] = {}
    try:
        for change in changes:
            if change.new is not None:
                staged[change.path] = _stage(change.path, change.new, change.mode)
        for change in changes:
            done.append(change)
            if change.new is None:
                change.path.unlink()
            else:
                staged[change.path].replace(change.path)
    except BaseException:
        for change in done:
            _undo(change)
        raise
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def _undo(change: _Change) -> None:
    if change.old is None:
        change.path.unlink(missing_ok=True)
    elif _read(change.path) != change.old:
        _stage(change.path, change.old, change.mode).replace(change.path)


def _stage(path: Path, data: bytes, mode: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.loopwright-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            owner = path.stat()
            if (owner.st_uid, owner.st_gid) != (os.getuid(), os.getgid()):
                os.chown(name, owner.st_uid, owner.st_gid)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)
