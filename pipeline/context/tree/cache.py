"""Parts of files that were parsed before, on disk by blob hash."""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.context.bounded_table import ADDED_AT, give_dates, make_room
from pipeline.context.tree.node import Part

_MAX_PARAMETERS = 500  # of one statement
_WAIT_SECONDS = 60.0  # for another process that writes
_MAX_BYTES = 256 << 20  # a hundred million lines or so
_SCHEMA = f"CREATE TABLE IF NOT EXISTS parts (key TEXT PRIMARY KEY, packed BLOB, {ADDED_AT}) WITHOUT ROWID"
_PACK_LEVEL = 1  # twice the size of level 9, a tenth of its time


def packed(part: Part) -> bytes:
    """Return a file's part as bytes."""
    return zlib.compress(json.dumps(part, separators=(",", ":")).encode(), _PACK_LEVEL)


def unpacked(data: bytes) -> Part:
    """Return the part that `packed` made the bytes from."""
    return _part(json.loads(zlib.decompress(data)))


def _part(raw: list[Any]) -> Part:
    raw[-1] = tuple(map(_part, raw[-1]))
    return Part._make(raw)


class PartCache:
    """A file of packed parts by key, shared by all processes that open it. A damaged one is begun anew."""

    def __init__(self, path: Path, max_bytes: int = _MAX_BYTES) -> None:
        """`max_bytes`: of the file; the oldest parts go first."""
        self._path = path
        self._max_bytes = max_bytes

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return those of the keys that are there."""
        wanted = sorted(set(keys))
        try:
            with closing(self._open()) as database:
                return dict(
                    row for i in range(0, len(wanted), _MAX_PARAMETERS) for row in _rows(database, wanted[i:])
                )
        except sqlite3.DatabaseError as exc:
            if isinstance(exc, sqlite3.OperationalError):
                raise
            self._path.unlink()
            return {}

    def put(self, parts: Mapping[str, bytes]) -> None:
        """Add parts; what is there already stays."""
        if parts:
            now = time.time()
            with closing(self._open()) as database:
                make_room(database, "parts", self._max_bytes)
                with database:
                    rows = [(key, data, now) for key, data in parts.items()]
                    database.executemany("INSERT OR IGNORE INTO parts VALUES (?, ?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=_WAIT_SECONDS)
        database.execute(_SCHEMA)
        give_dates(database, "parts")
        return database


def _rows(database: sqlite3.Connection, keys: list[str]) -> list[tuple[str, bytes]]:
    asked = keys[:_MAX_PARAMETERS]
    marks = ",".join("?" * len(asked))
    statement = f"SELECT key, packed FROM parts WHERE key IN ({marks})"  # noqa: S608 - question marks alone
    return database.execute(statement, asked).fetchall()
