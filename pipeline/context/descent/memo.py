"""Pays for no score twice: finished scores in one file, by all that they depend on, shared by processes.

A score that is there stays: of two workers that ask for the same piece, the first one's answer counts.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from pipeline.context.bounded_table import ADDED_AT, give_dates, make_room
from pipeline.context.descent.judge import Scorer
from pipeline.context.descent.pieces import Piece
from pipeline.context.descent.scorer import Score

_MAX_PARAMETERS = 500  # of one statement
_WAIT_SECONDS = 60.0  # for another process that writes
_COLUMNS = "value, raw, num_prompt_tokens, num_completion_tokens, num_calls, payer"
_MAX_BYTES = 256 << 20  # a million scores or so
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS scores (
  key TEXT PRIMARY KEY, value REAL, raw REAL, num_prompt_tokens INTEGER NOT NULL,
  num_completion_tokens INTEGER NOT NULL, num_calls INTEGER NOT NULL, payer TEXT NOT NULL,
  {ADDED_AT}
) WITHOUT ROWID
"""
_Result = TypeVar("_Result")


class Kept(NamedTuple):
    """A score with its cost, and the request that paid for it."""

    score: Score
    payer: str


@dataclass(frozen=True, slots=True)
class ScoreMemo:
    """Finished scores in a file. A copy in another process is the same memo. A damaged file is begun anew."""

    path: Path
    max_bytes: int = _MAX_BYTES  # of the file; the oldest scores go first

    def get(self, keys: Iterable[str]) -> dict[str, Kept]:
        """Return those of the keys that are there."""
        wanted = sorted(set(keys))
        return self._with(lambda database: _rows(database, wanted))

    def add(self, scores: Mapping[str, Score], payer: str) -> dict[str, Kept]:
        """Add scores in one transaction, and return what is there now: of a key that was there, the first."""
        now = time.time()
        rows = [
            (key, s.value, s.raw, s.num_prompt_tokens, s.num_completion_tokens, s.num_calls, payer, now)
            for key, s in scores.items()
        ]

        def insert(database: sqlite3.Connection) -> dict[str, Kept]:
            make_room(database, "scores", self.max_bytes)
            with database:
                database.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            return _rows(database, list(scores))

        return self._with(insert)

    def paid_by(self, payer: str) -> list[Score]:
        """Return the scores that a request has paid for. It looks at every score there is."""
        statement = f"SELECT {_COLUMNS} FROM scores WHERE payer = ?"  # noqa: S608 - names of ours
        rows = self._with(lambda database: database.execute(statement, (payer,)).fetchall())
        return [Score(*row[:-1]) for row in rows]

    def __len__(self) -> int:
        return self._with(lambda database: int(database.execute("SELECT COUNT(*) FROM scores").fetchone()[0]))

    def _with(self, act: Callable[[sqlite3.Connection], _Result]) -> _Result:
        try:
            return self._tried(act)
        except sqlite3.OperationalError:
            raise  # locked, or the disk is full: the file is whole
        except sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)
            return self._tried(act)

    def _tried(self, act: Callable[[sqlite3.Connection], _Result]) -> _Result:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=_WAIT_SECONDS)) as database:
            database.execute("PRAGMA synchronous = OFF")  # a killed process loses nothing
            database.execute(_SCHEMA)
            give_dates(database, "scores")
            return act(database)


class KeyedScorer(Scorer, Protocol):
    """A Scorer that can say what its scores depend on."""

    async def keys(self, query: str, pieces: Sequence[Piece]) -> list[str]:
        """Return for each piece a hash of all that its score depends on."""
        ...


class MemoScorer:
    """A Scorer that asks another one only for what the memo lacks; what it has costs nothing.

    What `payer` itself had paid for, before it was killed, comes back with its cost; "" pays anew each time.
    """

    def __init__(self, inner: KeyedScorer, memo: ScoreMemo, payer: str = "") -> None:
        self._inner = inner
        self._memo = memo
        self._payer = payer

    @property
    def calls_per_piece(self) -> int:
        """How many calls of the model one piece takes."""
        return self._inner.calls_per_piece

    @property
    def num_parallel(self) -> int:
        """How many batches are worked on side by side."""
        return self._inner.num_parallel

    async def count_tokens(self, query: str, pieces: Sequence[Piece]) -> int:
        """Return how many tokens the calls for these pieces take; those in the memo take none."""
        keys = await self._inner.keys(query, pieces)
        kept = self._memo.get(keys)
        missing = [piece for key, piece in zip(keys, pieces, strict=True) if key not in kept]
        return await self._inner.count_tokens(query, missing) if missing else 0

    async def scores(self, query: str, pieces: Sequence[Piece]) -> list[Score]:
        """Return a score for each piece, in order.

        Raises:
            GeneratorError: the engine failed.
        """
        return await self.scores_for(self._payer or uuid.uuid4().hex, query, pieces)

    async def scores_for(self, payer: str, query: str, pieces: Sequence[Piece]) -> list[Score]:
        """Return the scores of a request that may be a repeated one.

        What the same payer had paid for, before its worker died, comes back with its cost: nobody has
        accounted for it yet. See `scores`.
        """
        keys = await self._inner.keys(query, pieces)
        kept = self._memo.get(keys)
        missing = {key: piece for key, piece in zip(keys, pieces, strict=True) if key not in kept}
        if missing:
            asked = await self._inner.scores(query, list(missing.values()))
            kept |= self._memo.add(dict(zip(missing, asked, strict=True)), payer)
        return _accounted(keys, kept, payer)


def _accounted(keys: Sequence[str], kept: Mapping[str, Kept], payer: str) -> list[Score]:
    """Return the score of each key, with its cost where this payer has paid for it and not named it yet."""
    scores, named = [], set()
    for key in keys:
        is_paid = kept[key].payer == payer and key not in named
        scores.append(kept[key].score if is_paid else _free(kept[key].score))
        named.add(key)
    return scores


def _free(score: Score) -> Score:
    return replace(score, num_prompt_tokens=0, num_completion_tokens=0, num_calls=0, is_cached=True)


def _rows(database: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Kept]:
    found = {}
    for start in range(0, len(keys), _MAX_PARAMETERS):
        asked = keys[start : start + _MAX_PARAMETERS]
        marks = ",".join("?" * len(asked))
        statement = f"SELECT key, {_COLUMNS} FROM scores WHERE key IN ({marks})"  # noqa: S608 - names of ours
        for key, *score, payer in database.execute(statement, asked):
            found[key] = Kept(Score(*score), payer)
    return found
