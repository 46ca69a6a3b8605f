"""What past rounds came to, kept for the policy: one JSON line a round, appended when its run ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from pipeline.exceptions import InputError
from pipeline.policy.arms import RoundOutcome, outcomes_of
from pipeline.runs import RunRecord

_LOCK_TIMEOUT_SECONDS = 10.0


class OutcomeStore:
    """A file of round outcomes that several processes may append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, record: RunRecord) -> int:
        """Append the rounds of a finished run that are not there yet, and return how many.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=_LOCK_TIMEOUT_SECONDS):
                known = {outcome.key for outcome in self._read()}
                fresh = [outcome for outcome in outcomes_of(record) if outcome.key not in known]
                self._append(fresh)
        except OSError as exc:  # filelock's Timeout is one
            raise InputError(f"cannot write {self.path}: {exc}") from exc
        return len(fresh)

    def load(self, model: str) -> list[RoundOutcome]:
        """Return the rounds that this model drafted, oldest first."""
        return [outcome for outcome in self._read() if outcome.model == model]

    def models(self) -> list[str]:
        """Return the models that the store knows, in alphabetical order."""
        return sorted({outcome.model for outcome in self._read()})

    def _append(self, outcomes: list[RoundOutcome]) -> None:
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("\n" if torn and self.path.stat().st_size else "")
            stream.writelines(json.dumps(outcome.model_dump()) + "\n" for outcome in outcomes)

    def _read(self) -> Iterator[RoundOutcome]:
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                yield RoundOutcome.model_validate_json(line)
            except ValidationError:
                continue  # torn by a kill, or of another version
