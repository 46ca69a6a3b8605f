"""Fetches source distributions through pip's own index settings, without letting pip build or run anything.

`pip download` of an sdist executes its build backend to read metadata. So pip's finder and session (index,
mirrors, certificates, proxies, credentials: all as the user configured them) are asked for the bare file.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.exceptions import EnvironmentBrokenError, InputError
from tests.benchmarks.real_cases.case import Sdist

_MAX_SDIST_BYTES = 64 << 20
_MAX_UNPACKED_BYTES = 512 << 20
_CHUNK_BYTES = 1 << 16


class Index:
    """The package index that pip is configured for. Connects when it is first asked."""

    def fetch(self, project: str, sdist: Sdist, folder: Path) -> Path:
        """Return the path of the verified archive, downloaded into `folder` unless it is there.

        Raises:
            EnvironmentBrokenError: pip is missing, or the index does not have or does not give the file.
            InputError: the file is not the one that the case was made from.
        """
        target = folder / sdist.filename
        if not target.is_file():
            data = self._download(project, sdist)
            _check(data, sdist)
            folder.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
            partial.write_bytes(data)
            partial.replace(target)
        _check(target.read_bytes(), sdist)
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

    def _download(self, project: str, sdist: Sdist) -> bytes:
        session, finder = self._pip
        links = [candidate.link for candidate in finder.find_all_candidates(project)]
        link = next((link for link in links if link.filename == sdist.filename), None)
        if link is None:
            raise EnvironmentBrokenError(
                f"the package index has no {sdist.filename}", hint="see `pip config list`"
            )
        # Identity: an archive that a server labels as gzip-encoded must not be unpacked on the way.
        with session.get(
            link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True
        ) as answer:
            if answer.status_code != 200:
                raise EnvironmentBrokenError(
                    f"the package index answered {answer.status_code} for {sdist.filename}"
                )
            return _read_at_most(answer.iter_content(_CHUNK_BYTES), sdist.filename)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an sdist into `folder` and return its single top folder.

    Raises:
        InputError: it is no archive, unpacks to too much, would write outside, or has no single top folder.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:  # drops drive letters, roots and ".."
                _check_size(archive, (member.file_size for member in zipped.infolist()))
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                _check_size(archive, (member.size for member in tar))
                tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as exc:
        raise InputError(f"{archive.name} cannot be unpacked: {exc}") from exc
    tops = list(folder.iterdir())
    if len(tops) != 1 or not tops[0].is_dir():
        raise InputError(f"{archive.name} does not hold a single folder")
    return tops[0]


def _check_size(archive: Path, sizes: Any) -> None:
    if sum(sizes) > _MAX_UNPACKED_BYTES:
        raise InputError(f"{archive.name} unpacks to more than {_MAX_UNPACKED_BYTES >> 20} MiB")


def _read_at_most(chunks: Any, name: str) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > _MAX_SDIST_BYTES:
            raise InputError(f"{name} is larger than {_MAX_SDIST_BYTES >> 20} MiB")
    return bytes(data)


def _check(data: bytes, sdist: Sdist) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != sdist.sha256:
        raise InputError(
            f"{sdist.filename} has sha256 {digest}, expected {sdist.sha256}",
            hint="delete it if it is in the build folder; otherwise the index serves another file",
        )
