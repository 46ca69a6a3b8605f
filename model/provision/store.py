"""The models on this machine: where they lie, their manifests, and what of them can be trusted.

A model is a folder `models/NAME/DTYPE` that appears by one rename, complete, with a manifest of every file's
sha256. Whatever else is found in `models` is unfinished work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from model.exceptions import ModelError
from model.provision.catalogue import DTYPES, Dtype
from model.provision.progress import OnProgress, Progress

MANIFEST_NAME = "loopwright-model.json"
# Raised whenever the same source would give other files: what is in the store is then made anew.
CONVERSION_VERSION = 2
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What a file was when it was finished."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a finished model is made of, and from."""

    name: str
    dtype: Dtype
    source: str  # "hub", "mirror" or "local"
    location: str  # repository, distributions or path
    revision: str  # commit, version, or sha256 of a local file; "" for a local folder
    conversion_version: int
    files: Mapping[str, FileRecord]

    @property
    def num_bytes(self) -> int:
        """Return the size of all files."""
        return sum(record.num_bytes for record in self.files.values())


def store_root() -> Path:
    """Return the folder of all models, in $LOOPWRIGHT_HOME or the platform's folder for a user's data."""
    chosen = os.environ.get("LOOPWRIGHT_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute() / "models"
    from platformdirs import user_data_path

    return user_data_path("loopwright", appauthor=False) / "models"


def variant_folder(name: str, dtype: Dtype) -> Path:
    """Return where the model lies once it is finished."""
    return store_root() / name / dtype


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a finished model, or None where there is none that this version can read."""
    try:
        fields = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        files = {path: FileRecord(**record) for path, record in fields.pop("files").items()}
        return Manifest(**fields, files=files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def is_present(folder: Path) -> bool:
    """Return whether a finished, current model with files of the right sizes lies there; `verify` hashes."""
    manifest = read_manifest(folder)
    return (
        manifest is not None
        and manifest.conversion_version == CONVERSION_VERSION
        and all(_size(folder / path) == record.num_bytes for path, record in manifest.files.items())
    )


def present_dtypes(name: str) -> tuple[Dtype, ...]:
    """Return the dtypes in which the model is present."""
    return tuple(dtype for dtype in DTYPES if is_present(variant_folder(name, dtype)))


def stored_names() -> tuple[str, ...]:
    """Return the names of all models of which a finished variant is in the store."""
    root = store_root()
    names = (path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else ()
    return tuple(sorted(name for name in names if present_dtypes(name)))


def problems(folder: Path, on_progress: OnProgress) -> tuple[str, ...]:
    """Hash every file of a model again and return one line for each that is missing or changed."""
    manifest = read_manifest(folder)
    if manifest is None:
        return (f"{MANIFEST_NAME}: missing or unreadable",)
    found: list[str] = []
    done_bytes = 0
    for path, record in manifest.files.items():
        size = _size(folder / path)
        if size is None:
            found.append(f"{path}: missing")
        elif size != record.num_bytes:
            found.append(f"{path}: {size} bytes instead of {record.num_bytes}")
        elif sha256_of(folder / path) != record.sha256:
            found.append(f"{path}: sha256 differs")
        done_bytes += record.num_bytes
        on_progress(Progress("hash", done_bytes, manifest.num_bytes, path))
    return tuple(found)


@contextmanager
def building(name: str, dtype: Dtype) -> Iterator[tuple[Path, Callable[[Manifest], None]]]:
    """Yield an empty folder to write a model into, and a function that finishes it.

    Without a call of that function nothing of it is left behind. The caller holds the model's lock.
    """
    target = variant_folder(name, dtype)
    work = target.with_name(f".{dtype}.partial")
    for leftover in (work, _outdated(target)):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work, lambda manifest: _finish(work, target, manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def record_files(folder: Path, on_progress: OnProgress) -> dict[str, FileRecord]:
    """Flush every file in the folder to disk and return its size and sha256."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    total_bytes = sum(path.stat().st_size for path in paths)
    records: dict[str, FileRecord] = {}
    done_bytes = 0
    for path in paths:
        _flush(path)
        records[path.relative_to(folder).as_posix()] = FileRecord(
            num_bytes=path.stat().st_size, sha256=sha256_of(path)
        )
        done_bytes += path.stat().st_size
        on_progress(Progress("hash", done_bytes, total_bytes, path.name))
    return records


def _finish(work: Path, target: Path, manifest: Manifest) -> None:
    manifest_path = work / MANIFEST_NAME
    manifest_path.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    _flush(manifest_path)
    _flush(work)
    if target.exists():  # damaged, or of an older conversion
        target.rename(_outdated(target))
    work.rename(target)
    _flush(target.parent)
    shutil.rmtree(_outdated(target), ignore_errors=True)


def _outdated(target: Path) -> Path:
    return target.with_name(f".{target.name}.outdated")


@contextmanager
def model_lock(name: str, on_progress: OnProgress) -> Iterator[None]:
    """Hold the only right to change the model's folder; waits for another process that holds it."""
    from filelock import FileLock, Timeout

    folder = store_root() / name
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_progress(Progress("wait", note="another process is fetching this model"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def require_space(num_bytes: int, what: str) -> None:
    """Check that the store's disk has room, with a twentieth to spare.

    Raises:
        ModelError: it has not.
    """
    root = store_root()
    root.mkdir(parents=True, exist_ok=True)
    needed, free = num_bytes + num_bytes // 20, shutil.disk_usage(root).free
    if free < needed:
        raise ModelError(
            f"{what} needs {needed / 1e9:.1f} GB, but {root} has only {free / 1e9:.1f} GB free",
            hint="free some space, or set LOOPWRIGHT_HOME to a folder on another disk",
        )


def sha256_of(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
