"""One case: a Task whose metadata says from which two releases its repository is made."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.core import Task
from pipeline.exceptions import InputError

CASES_FILE = Path(__file__).with_name("cases.jsonl")


class Sdist(BaseModel):
    """A source distribution, as its index names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    filename: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Source(BaseModel):
    """How a case's repository is made, and what its maintainers changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    licence: str
    before: Sdist
    after: Sdist
    released: str  # the day of `after`, ISO 8601
    test_paths: tuple[str, ...] = Field(min_length=1)  # taken from `after`, laid over `before`
    requirements: tuple[str, ...] = ()  # beside pytest
    fixed_functions: tuple[str, ...] = Field(min_length=1)  # path::qualname; held out: for evaluation only
    num_changed_lines: int = Field(ge=1)  # added and removed, in those functions


def load_cases(path: Path = CASES_FILE, only: Collection[str] = ()) -> list[Task]:
    """Return the cases of a file, or those named in `only`.

    Raises:
        InputError: a name in `only` is not in the file.
    """
    tasks = [Task.model_validate_json(line) for line in path.read_text("utf-8").splitlines() if line]
    unknown = set(only) - {task.task_id for task in tasks}
    if unknown:
        raise InputError(
            f"no such case: {', '.join(sorted(unknown))}",
            hint=f"the cases are {', '.join(task.task_id for task in tasks)}",
        )
    return [task for task in tasks if not only or task.task_id in only]


def source_of(task: Task) -> Source:
    """Return the build information of a case."""
    return Source.model_validate(dict(task.metadata))
