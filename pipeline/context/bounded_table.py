"""Keeps a table in a file within a size: what was added first goes first.

The table has a key and, last, a column `added_at`; tables of before there was a bound are given it.
"""

from __future__ import annotations

import contextlib
import sqlite3

ADDED_AT = "added_at REAL NOT NULL DEFAULT 0"  # unix seconds
_SHARE = 4  # one row in so many goes at once, so that it is seldom


def give_dates(database: sqlite3.Connection, table: str) -> None:
    """Add the column where the table has none."""
    names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    if "added_at" not in names:
        with contextlib.suppress(sqlite3.OperationalError):  # another process was faster
            database.execute(f"ALTER TABLE {table} ADD COLUMN {ADDED_AT}")


def make_room(database: sqlite3.Connection, table: str, max_bytes: int) -> None:
    """Delete the oldest rows where the file is over `max_bytes`; call it before rows are added."""
    if _num_bytes(database) <= max_bytes:
        return
    oldest = f"SELECT key FROM {table} ORDER BY added_at LIMIT (SELECT COUNT(*) / {_SHARE} FROM {table})"  # noqa: S608 - names of ours
    with database:
        database.execute(f"DELETE FROM {table} WHERE key IN ({oldest})")  # noqa: S608
    with contextlib.suppress(sqlite3.OperationalError):  # somebody reads, or the disk is full: next time
        database.execute("VACUUM")  # keys are hashes: without it hardly a page would be free


def _num_bytes(database: sqlite3.Connection) -> int:
    page_count, free, page_bytes = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (page_count - free) * page_bytes
