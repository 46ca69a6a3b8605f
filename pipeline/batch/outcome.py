"""What became of an instance: four classes of outcome, and the row that is kept of each."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.batch.task_file import Instance
from pipeline.exceptions import InputError, LimitReachedError, LoopwrightError, RunBusyError
from pipeline.report.figures import candidates_of, num_prompt_tokens, wall_seconds
from pipeline.runs import RunRecord
from pipeline.text import printable
from pipeline.workspace.clone import without_password


class InstanceOutcome(enum.StrEnum):
    """How an instance of a batch ended."""

    SOLVED = "solved"
    UNSOLVED = "unsolved"  # searched to the end of the ladder or of a limit
    INVALID = "invalid"  # a bad line or task: no repository, no tests, tests that pass already, unknown ids
    INFRA = "infra"  # sandbox, engine, disk, network, dependencies: says nothing of the task


class Row(BaseModel):
    """What is kept of a finished instance. A line of results.jsonl."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance_id: str
    outcome: InstanceOutcome
    reason: str = ""
    hint: str = ""
    line: int  # of the task file
    digest: str = ""  # of the task; empty for a line that holds none
    repo: str = ""
    model: str = ""  # as the generator calls it
    started_at: datetime  # of the last attempt
    finished_at: datetime
    seconds: float = 0.0  # of all its stages, pauses between attempts left out
    num_tokens: int = 0  # completion tokens
    num_prompt_tokens: int | None = None  # each prompt once, however many drafts; None: an older row
    num_rounds: int = 0
    num_candidates: int = 0
    num_sandbox_runs: int = 0
    sandbox_seconds: float = 0.0  # of all its sandbox runs together
    suspects: tuple[str, ...] = ()  # "path::qualname", most suspect first
    solved_at: int | None = None  # drafts before the first that resolves
    tokens_at: int | None = None  # completion tokens of the drafts up to that one, itself included
    rank: int | None = None  # of the patched suspect, counted from 1
    recurrence_depth: int | None = None  # of the draft that became the patch
    patch_sha256: str = ""
    num_changed_lines: int | None = None
    advisory: bool = False  # the target was drafted from the issue, and nobody has confirmed it


def row_of(instance: Instance, record: RunRecord, started_at: datetime) -> Row:
    """Return the row of a run that came to its end, solved or not."""
    return Row(
        **_identity(instance),
        outcome=InstanceOutcome(record.status),
        reason=printable(record.reason),
        started_at=started_at,
        finished_at=datetime.now(UTC),
        advisory=record.is_advisory,
        **_cost(record),
        **_success(record),
    )


def failed_row(
    instance: Instance, error: BaseException, record: RunRecord | None, started_at: datetime
) -> Row:
    """Return the row of an instance that an error ended; `record` tells what it had cost by then."""
    known = isinstance(error, LoopwrightError)
    return Row(
        **_identity(instance),
        outcome=outcome_of(error),
        reason=printable(str(error) if known else f"internal error, {type(error).__name__}: {error}"),
        hint=printable(getattr(error, "hint", "")),
        started_at=started_at,
        finished_at=datetime.now(UTC),
        **(_cost(record) if record else {}),
    )


def invalid_line(instance_id: str, line: int, reason: str) -> Row:
    """Return the row of a line that holds no usable task."""
    now = datetime.now(UTC)
    return Row(
        instance_id=instance_id,
        outcome=InstanceOutcome.INVALID,
        reason=reason,
        line=line,
        started_at=now,
        finished_at=now,
    )


def outcome_of(error: BaseException) -> InstanceOutcome:
    """Return the class of an instance that this error ended."""
    if isinstance(error, LimitReachedError):
        return InstanceOutcome.UNSOLVED
    if isinstance(error, InputError) and not isinstance(error, RunBusyError):
        return InstanceOutcome.INVALID
    return InstanceOutcome.INFRA


def busy_seconds(rows: Iterable[Row]) -> float:
    """Return for how long at least one of the instances was being worked on."""
    total, end = 0.0, datetime.min.replace(tzinfo=UTC)
    for row in sorted(rows, key=lambda row: row.started_at):
        total += max((row.finished_at - max(row.started_at, end)).total_seconds(), 0.0)
        end = max(end, row.finished_at)
    return total


def _identity(instance: Instance) -> dict[str, Any]:
    task = instance.task
    return {
        "instance_id": task.task_id,
        "line": instance.line,
        "digest": instance.digest,
        "repo": without_password(task.repo),
    }


def _cost(record: RunRecord) -> dict[str, Any]:
    return {
        "model": record.model,
        "seconds": round(wall_seconds(record), 3),
        "num_tokens": record.num_completion_tokens,
        "num_prompt_tokens": num_prompt_tokens(record),
        "num_rounds": len(record.rounds),
        "num_candidates": len(candidates_of(record)),
        "num_sandbox_runs": record.num_sandbox_runs,
        "sandbox_seconds": round(record.sandbox_seconds, 3),
        "suspects": tuple(f"{suspect.path}::{suspect.qualname}" for suspect in record.suspects),
    }


def _success(record: RunRecord) -> dict[str, Any]:
    if record.patch is None:
        return {}
    entries = candidates_of(record)
    drafts = [entry.candidate for entry in entries]
    number = next(i for i, draft in enumerate(drafts) if draft.candidate_id == record.patch.candidate_id)
    suspect, after = drafts[number].suspect, entries[number + 1 :]
    places = [(s.path, s.start_line, s.qualname) for s in record.suspects]
    place = (suspect.path, suspect.start_line, suspect.qualname)
    return {
        "solved_at": number,
        "tokens_at": record.num_completion_tokens
        - sum(entry.completion.num_completion_tokens for entry in after),
        "rank": places.index(place) + 1 if place in places else None,
        "recurrence_depth": drafts[number].recurrence_depth,
        "patch_sha256": hashlib.sha256(record.patch.diff.encode("utf-8", "surrogateescape")).hexdigest(),
        "num_changed_lines": record.patch.num_changed_lines,
    }
