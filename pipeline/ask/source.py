"""Gathers what a question is about: repositories and folders, and files whatever they are called."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.context.tree.skipped import MAX_DOCUMENT_BYTES
from pipeline.exceptions import InputError
from pipeline.snapshot import Snapshot
from pipeline.workspace import export_snapshot
from pipeline.workspace.clone import is_url

STDIN = "-"
_STDIN_NAME = "stdin.txt"


@dataclass(frozen=True, slots=True)
class Source:
    """A tree to read, and which of its files were named."""

    snapshot: Snapshot
    documents: frozenset[str]


def gather(paths: Sequence[str], folder: Path, *, clone_cache: Path) -> Source:
    """Return the tree of one repository or folder, or of several paths each under its own name.

    A git work tree is read as it stands, without what git ignores.

    Raises:
        InputError: a path that is missing, unreadable or too large, or two of one name.
        EnvironmentBrokenError: git is missing, or a server cannot be reached.
    """
    if len(paths) == 1 and (is_url(paths[0]) or _is_folder(paths[0])):
        return Source(_exported(paths[0], folder, clone_cache), frozenset())
    documents: set[str] = set()
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        name = _name_of(path)
        if (folder / name).exists():
            raise InputError(
                f"two of the paths are called {name}", hint="ask about each, or about their folder"
            )
        if is_url(path) or _is_folder(path):
            _exported(path, folder / name, clone_cache)
        else:
            _copy_file(path, folder / name)
            documents.add(name)
    return Source(Snapshot(folder, ""), frozenset(documents))


def _exported(path: str, folder: Path, clone_cache: Path) -> Snapshot:
    source = Path(path).expanduser()
    if is_url(path) or (source / ".git").exists():
        return export_snapshot(path, None, folder, clone_cache=clone_cache)
    try:
        shutil.copytree(source, folder, symlinks=True, ignore=_no_files)
    except (shutil.Error, OSError) as exc:
        raise InputError(f"{path} cannot be read: {exc}", hint="check its permissions") from exc
    return Snapshot(folder, "")


def _no_files(folder: str, names: list[str]) -> list[str]:
    """Return what is neither file, folder nor link: to open a pipe would wait for ever."""
    paths = {name: Path(folder, name) for name in names}
    return [n for n, p in paths.items() if not (p.is_symlink() or p.is_file() or p.is_dir())]


def _is_folder(path: str) -> bool:
    return path != STDIN and Path(path).expanduser().is_dir()


def _name_of(path: str) -> str:
    if path == STDIN:
        return _STDIN_NAME
    name = path.rstrip("/").removesuffix(".git") if is_url(path) else str(Path(path).expanduser().resolve())
    return name.rpartition("/")[2] or "root"


def _copy_file(path: str, target: Path) -> None:
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1)
        elif not (source := Path(path).expanduser()).is_file():
            raise InputError(f"{path} does not exist or is no file", hint="give files, folders or git URLs")
        else:
            with source.open("rb") as file:
                data = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror}") from exc
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InputError(f"{path} is over {MAX_DOCUMENT_BYTES >> 20} MiB", hint="ask about a part of it")
    target.write_bytes(data)
