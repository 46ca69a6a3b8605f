"""Writes an exported tree. Names and links may be hostile: nothing is written outside the folder."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.exceptions import InputError

_SYMLINK, _EXECUTABLE = b"120000", b"100755"
_MAX_LINK_BYTES = 4096
_COPY_BYTES = 1 << 20
_SMALL_FILE_BYTES = 1024


@dataclass(frozen=True)
class TreeFile:
    """One file of a commit. Names are bytes, as git and the file system have them."""

    name: bytes
    mode: bytes  # octal, as git prints it


class TreeWriter:
    """Writes files under one folder. Links are made last, so that no file is written through one."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.fsencode(folder)
        self._links: list[tuple[bytes, bytes]] = []
        self._made: set[bytes] = set()
        self._submodules: list[bytes] = []
        self._left_out: list[bytes] = []
        self._is_link: dict[bytes, bool] = {}
        self._is_virtualenv: dict[bytes, bool] = {}
        self.small_files: list[bytes] = []

    def write_stream(self, file: TreeFile, source: BinaryIO, num_bytes: int) -> None:
        """Write the next `num_bytes` of the source as this file."""
        if file.mode == _SYMLINK:
            if num_bytes > _MAX_LINK_BYTES:
                raise InputError(f"the link {os.fsdecode(file.name)} is too long")
            self._links.append((self._path(file.name), source.read(num_bytes)))
            return
        self._note_size(file.name, num_bytes)
        with self._create(file.name, executable=file.mode == _EXECUTABLE) as target:
            while num_bytes > 0:
                chunk = source.read(min(num_bytes, _COPY_BYTES))
                if not chunk:
                    raise InputError(f"the repository's copy of {os.fsdecode(file.name)} ends early")
                target.write(chunk)
                num_bytes -= len(chunk)

    def copy(self, name: bytes, work_tree: Path) -> bool:
        """Copy a file or link of the working tree; return False when there is none by now."""
        source = os.path.join(os.fsencode(work_tree), name)
        if self._lies_behind_link(os.fsencode(work_tree), name):
            return False
        try:
            facts = os.lstat(source)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if stat.S_ISLNK(facts.st_mode):
            self._links.append((self._path(name), os.readlink(source)))
        elif stat.S_ISREG(facts.st_mode):
            self._note_size(name, facts.st_size)
            with (
                open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream,
                self._create(name, executable=bool(facts.st_mode & 0o111)) as target,
            ):
                shutil.copyfileobj(stream, target, _COPY_BYTES)
        else:
            return False
        return True

    def copy_untracked(self, name: bytes, work_tree: Path) -> bool:
        """Copy an untracked file; byte code, virtual environments and nested repositories are left out."""
        if name.endswith(b"/"):  # git names a nested repository so
            self._submodules.append(name)
            return False
        folders = name.split(b"/")[:-1]
        if b"__pycache__" in folders or self._lies_in_virtualenv(os.fsencode(work_tree), folders):
            return False
        return self.copy(name, work_tree)

    def skip_submodule(self, name: bytes) -> None:
        """Leave an empty folder in a submodule's place, as a plain clone does."""
        os.makedirs(self._path(name), exist_ok=True)
        self._submodules.append(name)

    def write_links(self) -> None:
        """Make the links, now that every file is written."""
        for path, target in self._links:
            self._make_folder(os.path.dirname(path))
            os.symlink(target, path)

    def warnings(self) -> tuple[str, ...]:
        """Return what a user should know of things that were left out."""
        found = []
        if self._submodules:
            names = ", ".join(os.fsdecode(name) for name in self._submodules[:3])
            found.append(f"{len(self._submodules)} submodules or nested repositories are left out: {names}")
        if self._left_out:
            names = ", ".join(os.fsdecode(name) for name in self._left_out[:3])
            found.append(f"untracked virtual environments are left out: {names}")
        return tuple(found)

    def _path(self, name: bytes) -> bytes:
        parts = name.split(b"/")
        if any(part in (b"", b".", b"..") or part.lower() == b".git" for part in parts):
            raise InputError(
                f"the repository holds a file of a forbidden name: {os.fsdecode(name)!r}",
                hint="git would not check it out either",
            )
        return os.path.join(self._folder, name)

    def _create(self, name: bytes, *, executable: bool) -> BinaryIO:
        path = self._path(name)
        self._make_folder(os.path.dirname(path))
        mode = 0o755 if executable else 0o644
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        os.fchmod(descriptor, mode)
        return open(descriptor, "wb")

    def _make_folder(self, folder: bytes) -> None:
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def _note_size(self, name: bytes, num_bytes: int) -> None:
        if num_bytes <= _SMALL_FILE_BYTES:
            self.small_files.append(name)

    def _lies_behind_link(self, root: bytes, name: bytes) -> bool:
        """Say whether a folder on the way is a link: git takes such files for deleted."""
        parent = os.path.dirname(name)
        if not parent:
            return False
        if parent not in self._is_link:
            self._is_link[parent] = os.path.islink(os.path.join(root, parent)) or self._lies_behind_link(
                root, parent
            )
        return self._is_link[parent]

    def _lies_in_virtualenv(self, root: bytes, folders: list[bytes]) -> bool:
        for depth in range(1, len(folders) + 1):
            folder = b"/".join(folders[:depth])
            if folder not in self._is_virtualenv:
                found = os.path.exists(os.path.join(root, folder, b"pyvenv.cfg"))
                self._is_virtualenv[folder] = found
                if found:
                    self._left_out.append(folder)
            if self._is_virtualenv[folder]:
                return True
        return False
