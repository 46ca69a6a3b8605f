"""Fetches source distributions through pip's own index settings, without letting pip build or run anything.

`pip download` of an sdist executes its build backend to read metadata. So pip's finder and session (index,
mirrors, certificates, proxies, credentials: all as the user configured them) are asked for the bare file.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.utils import InvalidSdistFilename, parse_sdist_filename
from packaging.version import InvalidVersion, Version

from pipeline.exceptions import EnvironmentBrokenError, InputError

_MAX_SDIST_BYTES = 64 << 20
_MAX_UNPACKED_BYTES = 512 << 20
_MAX_MEMBERS = 50_000
_CHUNK_BYTES = 1 << 16


class Index:
    """The package index that pip is configured for. Connects when it is first asked."""

    def find(self, project: str, version: str) -> str:
        """Return the file name of a version's source distribution.

        Raises:
            InputError: the index has no such project, version, or no sdist of it.
            EnvironmentBrokenError: pip is missing, or the index does not answer.
        """
        try:
            wanted = Version(version)
        except InvalidVersion as exc:
            raise InputError(f"{version!r} is not a version", hint="give NAME==VERSION") from exc
        links = self._links(project)
        found = {name: _version_of(name) for name in links}
        matching = [name for name, its in found.items() if its == wanted]
        if not matching:
            newest = sorted({its for its in found.values() if its is not None})[-3:]
            known = f"its newest: {', '.join(map(str, newest))}" if newest else "check the name"
            raise InputError(
                f"the package index has no source distribution of {project} {version}", hint=known
            )
        return min(matching, key=lambda name: (not name.endswith(".tar.gz"), name))

    def fetch(self, project: str, filename: str, folder: Path, sha256: str = "") -> Path:
        """Return the path of the archive, downloaded into `folder` unless it is there, and verified.

        Raises:
            EnvironmentBrokenError: pip is missing, or the index does not have or does not give the file.
            InputError: the file is not the one of that sha256.
        """
        target = folder / filename
        if not target.is_file():
            data = self._download(project, filename)
            _check(data, filename, sha256)
            folder.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
            partial.write_bytes(data)
            partial.replace(target)
        _check(target.read_bytes(), filename, sha256)
        return target

    @cached_property
    def _pip(self) -> tuple[Any, Any]:
        try:
            from pip._internal.commands import create_command
        except ImportError as exc:
            raise EnvironmentBrokenError(
                "pip is not installed in this environment", hint="python -m ensurepip"
            ) from exc
        command: Any = create_command("download")
        options, _ = command.parser.parse_args(["--no-binary", ":all:"])
        session = command._build_session(options)
        finder = command._build_package_finder(options, session, ignore_requires_python=True)
        return session, finder

    def _links(self, project: str) -> dict[str, Any]:
        from pip._internal.exceptions import PipError

        _, finder = self._pip
        try:
            return {
                candidate.link.filename: candidate.link for candidate in finder.find_all_candidates(project)
            }
        except (PipError, OSError) as exc:
            raise EnvironmentBrokenError(
                f"the package index does not answer: {exc}", hint="see `pip config list`"
            ) from exc

    def _download(self, project: str, filename: str) -> bytes:
        link = self._links(project).get(filename)
        if link is None:
            raise EnvironmentBrokenError(f"the package index has no {filename}", hint="see `pip config list`")
        session, _ = self._pip
        # Identity: an archive that a server labels as gzip-encoded must not be unpacked on the way.
        with session.get(
            link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True
        ) as answer:
            if answer.status_code != 200:
                raise EnvironmentBrokenError(
                    f"the package index answered {answer.status_code} for {filename}"
                )
            return _read_at_most(answer.iter_content(_CHUNK_BYTES), filename)


def project_of(filename: str) -> tuple[str, str]:
    """Return the project's name and version as an sdist's file name has them.

    Raises:
        InputError: it is not the name of an sdist.
    """
    try:
        name, version = parse_sdist_filename(filename)
    except (InvalidSdistFilename, InvalidVersion) as exc:
        raise InputError(
            f"{filename} is not the name of a source distribution", hint="such as name-1.0.tar.gz"
        ) from exc
    return str(name), str(version)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an sdist into `folder` and return its single top folder.

    Raises:
        InputError: it is no archive, unpacks to too much, would write outside, or has no single top folder.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:  # drops drive letters, roots and ".."
                _check_size(archive, (member.file_size for member in zipped.infolist()))
                zipped.extractall(folder)  # noqa: S202
        else:
            with tarfile.open(archive) as tar:
                _check_size(archive, (member.size for member in tar))
                tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as exc:
        raise InputError(f"{archive.name} cannot be unpacked: {exc}") from exc
    tops = list(folder.iterdir())
    if len(tops) != 1 or not tops[0].is_dir() or tops[0].is_symlink():
        raise InputError(f"{archive.name} does not hold a single folder")
    return tops[0]


def _version_of(filename: str) -> Version | None:
    try:
        return parse_sdist_filename(filename)[1]
    except (InvalidSdistFilename, InvalidVersion):
        return None  # a wheel, or a name of old times


def _check_size(archive: Path, sizes: Iterable[int]) -> None:
    total = num = 0
    for size in sizes:
        total, num = total + size, num + 1
        if total > _MAX_UNPACKED_BYTES or num > _MAX_MEMBERS:
            raise InputError(
                f"{archive.name} unpacks to more than {_MAX_UNPACKED_BYTES >> 20} MiB or {_MAX_MEMBERS} files"
            )


def _read_at_most(chunks: Any, name: str) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > _MAX_SDIST_BYTES:
            raise InputError(f"{name} is larger than {_MAX_SDIST_BYTES >> 20} MiB")
    return bytes(data)


def _check(data: bytes, filename: str, sha256: str) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        raise InputError(
            f"{filename} has sha256 {digest}, expected {sha256}",
            hint="delete it if it is in the build folder; otherwise the index serves another file",
        )
