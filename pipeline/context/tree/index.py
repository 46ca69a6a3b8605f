"""Builds the tree of a snapshot: each file that is kept is hashed, and parsed if its blob is new."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.context.tree.cache import PartCache, packed
from pipeline.context.tree.file_parts import file_parts
from pipeline.context.tree.languages import language_of
from pipeline.context.tree.node import LeafLimits
from pipeline.context.tree.repo_tree import IndexedFile, RepoTree
from pipeline.context.tree.skipped import MAX_DOCUMENT_BYTES, MAX_FILE_BYTES, skip_reason
from pipeline.snapshot import Snapshot

_VERSION = 1  # of how a file is cut and packed: raise it with every change that makes other parts
_PUT_EVERY = 500  # files: what an index that is killed has parsed is not lost


class _Kept(NamedTuple):
    blob: str
    key: str  # of the cache
    num_bytes: int


@dataclass(slots=True)
class _Reading:
    """What one pass over the snapshot found; contents are read again for the few blobs that are new."""

    skipped: dict[str, str] = field(default_factory=dict)
    kept: dict[str, _Kept] = field(default_factory=dict)  # by path


def index(
    snapshot: Snapshot,
    *,
    limits: LeafLimits | None = None,
    cache: PartCache | None = None,
    documents: Collection[str] = (),
) -> RepoTree:
    """Return the tree of a snapshot.

    With a cache, files whose blobs are known to it are not parsed again. Links are skipped: what they lead to
    stands in the tree under its own path. `documents` are paths that somebody has named: they are kept
    whatever they are called, up to 256 MiB.
    """
    limits = limits or LeafLimits()
    reading = _read(snapshot, limits, frozenset(documents))
    known = cache.get(kept.key for kept in reading.kept.values()) if cache else {}
    for batch in _batches({kept.key: path for path, kept in reading.kept.items() if kept.key not in known}):
        new = {key: _parsed(snapshot, path, limits) for key, path in batch.items()}
        if cache:
            cache.put(new)
        known |= new
    files = {
        path: IndexedFile(path, kept.blob, known[kept.key], kept.num_bytes)
        for path, kept in reading.kept.items()
    }
    return RepoTree(files, reading.skipped)


def _read(snapshot: Snapshot, limits: LeafLimits, documents: frozenset[str]) -> _Reading:
    reading, root = _Reading(), str(snapshot.root)
    for path in snapshot.paths:
        is_document = path in documents
        max_bytes = MAX_DOCUMENT_BYTES if is_document else MAX_FILE_BYTES
        reason, data = _content(snapshot, root, path, max_bytes)
        if reason := reason or skip_reason(path, data, is_document=is_document):
            reading.skipped[path] = reason
            continue
        blob = blob_hash(data)
        language = language_of(path)
        edition = language.edition if language else "text"
        key = f"{_VERSION}:{limits.max_lines}:{limits.max_bytes}:{edition}:{blob}"
        reading.kept[path] = _Kept(blob, key, len(data))
    return reading


def _content(snapshot: Snapshot, root: str, path: str, max_bytes: int) -> tuple[str, bytes]:
    """Return why a file cannot be read, or its bytes, of one that is too long no more than that shows."""
    if path in snapshot.changed:
        return "", snapshot.changed[path]
    try:
        # No Path, no realpath: of 20,000 files they take two seconds. The snapshot's listing enters no linked
        # folder, so what is no link itself lies in the tree.
        name = os.path.join(root, path)
        mode = os.lstat(name).st_mode
        if not stat.S_ISREG(mode):
            return ("link" if stat.S_ISLNK(mode) else "not a regular file"), b""
        with open(name, "rb") as file:
            return "", file.read(max_bytes + 1)
    except OSError as exc:
        return f"not readable ({type(exc).__name__})", b""


def _batches(wanted: Mapping[str, str]) -> Iterator[dict[str, str]]:
    items = list(wanted.items())
    for first in range(0, len(items), _PUT_EVERY):
        yield dict(items[first : first + _PUT_EVERY])


def _parsed(snapshot: Snapshot, path: str, limits: LeafLimits) -> bytes:
    return packed(file_parts(snapshot.read_bytes(path), language_of(path), limits))


def blob_hash(data: bytes) -> str:
    """Return the name that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
