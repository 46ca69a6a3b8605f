"""The purse of a question: what it may still cost, held in one file for all its processes.

Whoever wants to spend reserves the worst case first and settles what it was afterwards, so that parallel
parts never overspend together. A part that may spend less than the whole gets a slice.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.context.reading import Spend
from pipeline.core import Budget
from pipeline.exceptions import LimitReachedError
from pipeline.owner import Owner, this_process

_WAIT_SECONDS = 60.0  # for another process that writes
# A hold is a reservation as one purse sees it: the purse that it was made from, or one above that.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS purses (
  purse_id INTEGER PRIMARY KEY, parent_id INTEGER, num_calls INTEGER NOT NULL, num_tokens INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS holds (
  reservation_id TEXT, purse_id INTEGER, owner TEXT NOT NULL, is_settled INTEGER NOT NULL DEFAULT 0,
  num_calls INTEGER NOT NULL, num_tokens INTEGER NOT NULL, num_prompt_tokens INTEGER NOT NULL DEFAULT 0,
  is_cached INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (purse_id, reservation_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS holds_of_a_reservation ON holds (reservation_id);
"""
_RESERVE = """
INSERT INTO holds (reservation_id, purse_id, owner, num_calls, num_tokens)
WITH RECURSIVE
  line (purse_id) AS (
    SELECT :purse_id UNION ALL
    SELECT parent_id FROM purses JOIN line USING (purse_id) WHERE parent_id IS NOT NULL
  ),
  used AS (
    SELECT purses.purse_id, purses.num_calls AS max_calls, purses.num_tokens AS max_tokens,
      COALESCE(SUM(holds.num_calls), 0) AS num_calls, COALESCE(SUM(holds.num_tokens), 0) AS num_tokens
    FROM purses JOIN line USING (purse_id) LEFT JOIN holds USING (purse_id) GROUP BY purses.purse_id
  )
SELECT :reservation_id, purse_id, :owner, :num_calls, :num_tokens FROM line
WHERE NOT EXISTS (
  SELECT 1 FROM used
  WHERE used.num_calls + :num_calls > max_calls OR used.num_tokens + :num_tokens > max_tokens
)
"""


class BudgetSpentError(LimitReachedError):
    """What was asked for would cost more than is left."""


class DeadlineError(LimitReachedError):
    """The time for a question is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What may still be spent; what others have reserved is not in it."""

    num_calls: int
    num_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Purse:
    """A purse in a file. A copy in another process is the same purse."""

    path: Path
    purse_id: int
    deadline: float  # unix seconds

    @classmethod
    def open(cls, path: Path, budget: Budget, deadline: float) -> Purse:
        """Return a new purse that holds the budget; `deadline` is in unix seconds."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _database(path) as database:
            database.executescript(_SCHEMA)
        return cls(path, _add(path, None, budget.num_calls, budget.num_tokens), deadline)

    def slice(self, *, num_calls: int, num_tokens: int, seconds: float | None = None) -> Purse:
        """Return a purse below this one: what is spent from it is spent from this one, too.

        Nothing is set aside for it; `seconds`, from now on, cannot lead past this one's deadline.
        """
        deadline = self.deadline if seconds is None else min(self.deadline, time.time() + seconds)
        return Purse(self.path, _add(self.path, self.purse_id, num_calls, num_tokens), deadline)

    def reserve(self, num_calls: int, num_tokens: int) -> str:
        """Set the worst case aside, here and in every purse above; return the reservation's id.

        Raises:
            BudgetSpentError: that much is not left.
            DeadlineError: no time is left.
        """
        if time.time() >= self.deadline:
            raise DeadlineError("the time for this question is over")
        wanted = {
            "reservation_id": uuid.uuid4().hex,
            "purse_id": self.purse_id,
            "owner": str(this_process()),
            "num_calls": num_calls,
            "num_tokens": num_tokens,
        }
        with _database(self.path) as database:
            is_held = database.execute(_RESERVE, wanted).rowcount > 0
            if not is_held and _free_dead(database):
                is_held = database.execute(_RESERVE, wanted).rowcount > 0
        if not is_held:
            left = self.remaining()
            raise BudgetSpentError(
                f"{num_calls} calls and {num_tokens} tokens are wanted; "
                f"{left.num_calls} calls and {left.num_tokens} tokens are left"
            )
        return str(wanted["reservation_id"])

    def require(self, num_calls: int, *, hint: str) -> None:
        """Refuse work that may take more calls than are left, before any of it is done.

        Raises:
            BudgetSpentError: it may.
        """
        left = self.remaining().num_calls
        if num_calls > left:
            raise BudgetSpentError(
                f"this takes up to {num_calls} calls of the model, and {left} are left", hint=hint
            )

    def settle(self, reservation_id: str, spend: Spend, *, is_cached: bool = False) -> None:
        """Put what was used in the place of what was reserved.

        What is cached was answered from a ledger: it uses up the budget as it did the first time, so that
        the same question goes the same way again, but nothing was spent on it.
        """
        num_tokens = spend.num_prompt_tokens + spend.num_completion_tokens
        row = (spend.num_calls, num_tokens, spend.num_prompt_tokens, is_cached, reservation_id)
        with _database(self.path) as database:
            database.execute(
                "UPDATE holds SET is_settled = 1, num_calls = ?, num_tokens = ?, num_prompt_tokens = ?,"
                " is_cached = ? WHERE reservation_id = ?",
                row,
            )

    def release(self, reservation_id: str) -> None:
        """Give back what was reserved: nothing of it was spent. What is settled stays."""
        with _database(self.path) as database:
            database.execute(
                "DELETE FROM holds WHERE reservation_id = ? AND NOT is_settled", (reservation_id,)
            )

    def remaining(self) -> Remaining:
        """Return what is left here and in every purse above."""
        calls, tokens, purse_id = [], [], self.purse_id
        with _database(self.path) as database:
            while purse_id is not None:
                parent_id, max_calls, max_tokens = database.execute(
                    "SELECT parent_id, num_calls, num_tokens FROM purses WHERE purse_id = ?", (purse_id,)
                ).fetchone()
                used = database.execute(
                    "SELECT COALESCE(SUM(num_calls), 0), COALESCE(SUM(num_tokens), 0)"
                    " FROM holds WHERE purse_id = ?",
                    (purse_id,),
                ).fetchone()
                calls.append(max_calls - used[0])
                tokens.append(max_tokens - used[1])
                purse_id = parent_id
        seconds = max(0.0, self.deadline - time.time())
        return Remaining(num_calls=max(0, min(calls)), num_tokens=max(0, min(tokens)), seconds=seconds)

    def spent(self) -> Spend:
        """Return what was settled from this purse and those below it; its seconds are not counted."""
        with _database(self.path) as database:
            rows = database.execute(
                "SELECT is_cached, SUM(num_calls), SUM(num_tokens), SUM(num_prompt_tokens)"
                " FROM holds WHERE purse_id = ? AND is_settled GROUP BY is_cached",
                (self.purse_id,),
            ).fetchall()
        sums = {is_cached: numbers for is_cached, *numbers in rows}
        num_calls, num_tokens, num_prompt_tokens = sums.get(0, (0, 0, 0))
        return Spend(
            num_calls=num_calls,
            num_prompt_tokens=num_prompt_tokens,
            num_completion_tokens=num_tokens - num_prompt_tokens,
            num_cached_calls=sums.get(1, (0,))[0],
        )


def _add(path: Path, parent_id: int | None, num_calls: int, num_tokens: int) -> int:
    with _database(path) as database:
        row = (parent_id, num_calls, num_tokens)
        added = database.execute(
            "INSERT INTO purses (parent_id, num_calls, num_tokens) VALUES (?, ?, ?)", row
        )
    assert added.lastrowid is not None
    return added.lastrowid


def _free_dead(database: sqlite3.Connection) -> bool:
    """Give back what processes had reserved that are surely gone; say whether there was any."""
    owners = database.execute("SELECT DISTINCT owner FROM holds WHERE NOT is_settled").fetchall()
    dead = [row for row in owners if (owner := Owner.parse(row[0])) and owner.is_dead]
    database.executemany("DELETE FROM holds WHERE owner = ? AND NOT is_settled", dead)
    return bool(dead)


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    # Autocommit: each statement is a transaction, and one that writes takes the lock before it reads.
    with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")  # a killed process loses nothing; the machine's end may
        yield database
