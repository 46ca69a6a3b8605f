"""A read-only view of an exported source tree: what `workspace` makes and every later stage reads.

The folder holds the tree as it was at the base, without history. Candidates are laid over it as tar layers;
the folder itself is never changed.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

_EXECUTABLE, _PLAIN = 0o755, 0o644
_MODIFIED_AT = 946_684_800  # 2000-01-01: zip archives, and so wheels, know no time before 1980


@dataclass(frozen=True)
class Snapshot:
    """An exported tree."""

    root: Path
    commit: str  # of the repository's HEAD or the base asked for; "" where there is none yet
    num_uncommitted: int = 0  # changed or untracked files that are part of the snapshot
    warnings: tuple[str, ...] = ()  # what a user should know of things that were left out
    changed: Mapping[str, bytes] = field(
        default_factory=dict
    )  # files that read as this, whatever the folder has

    def with_files(self, files: Mapping[str, bytes]) -> Snapshot:
        """Return the same tree with other content in these of its files; the folder stays as it is."""
        return replace(self, changed={**self.changed, **files})

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Relative paths of all files, links included, sorted, with forward slashes."""
        found = []
        for folder, dirs, files in os.walk(self.root):
            dirs[:] = sorted(d for d in dirs if d != ".git")
            linked_dirs = [d for d in dirs if os.path.islink(os.path.join(folder, d))]
            found += [os.path.relpath(os.path.join(folder, name), self.root) for name in files + linked_dirs]
        return tuple(sorted({*self.changed, *(path.replace(os.sep, "/") for path in found)}))

    @cached_property
    def python_paths(self) -> tuple[str, ...]:
        """Relative paths of the Python sources."""
        return tuple(path for path in self.paths if path.endswith(".py"))

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: no such regular file inside the tree (a link out of it counts as none).
        """
        if path in self.changed:
            return self.changed[path]
        try:
            # Not Path.resolve: a link that leads to itself makes it raise RuntimeError.
            target = Path(os.path.realpath(self.root / path))
            if target.is_relative_to(os.path.realpath(self.root)) and target.is_file():
                return target.read_bytes()
        except ValueError:  # a null character
            pass
        raise FileNotFoundError(path)

    @cached_property
    def tar(self) -> bytes:
        """The tree as a deterministic tar stream."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in self.paths:
                _add_path(archive, self.root / path, path, self.changed.get(path))
        return buffer.getvalue()

    @cached_property
    def tree_hash(self) -> str:
        """Hash of every path, mode and content."""
        return hashlib.sha256(self.tar).hexdigest()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return a deterministic tar stream that holds the files under their relative paths."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(files):
            info = _entry(path, _PLAIN)
            info.size = len(files[path])
            archive.addfile(info, io.BytesIO(files[path]))
    return buffer.getvalue()


def _add_path(archive: tarfile.TarFile, source: Path, path: str, content: bytes | None) -> None:
    if source.is_symlink():
        info = _entry(path, _PLAIN)
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(source)
        archive.addfile(info)
    elif content is not None or source.is_file():  # sockets, pipes and devices have no place in a repository
        data = source.read_bytes() if content is None else content
        info = _entry(path, _EXECUTABLE if os.access(source, os.X_OK) else _PLAIN)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def _entry(path: str, mode: int) -> tarfile.TarInfo:
    # Owner and time are always the same, so that equal trees make equal streams.
    info = tarfile.TarInfo(path)
    info.mode, info.mtime = mode, _MODIFIED_AT
    return info
