"""From what a task is made: a source and the bug as a diff. It stands in the task's metadata."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core import Task
from pipeline.exceptions import InputError

Split = Literal["dev", "held_out"]
Sites = Literal["single", "function", "file", "files"]  # several sites: in one function, one file, two files


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SdistSource(_Part):
    """A source distribution, as its index names it."""

    kind: Literal["sdist"] = "sdist"
    project: str
    version: str
    filename: str = Field(pattern=r"^[\w.+-]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class GitSource(_Part):
    """A commit of a repository. Portable where `repo` is a URL."""

    kind: Literal["git"] = "git"
    project: str
    repo: str  # a path or a git URL
    commit: str = Field(pattern=r"^[0-9a-f]{40,64}$")


Origin = Annotated[SdistSource | GitSource, Field(discriminator="kind")]


class Recipe(_Part):
    """How the tree of a task is made."""

    source: Origin
    diff: str  # from the source to the task's tree: the bug, or tests that show one which was there
    sha256_by_path: dict[str, str]  # of each changed file, afterwards
    operators: tuple[str, ...] = Field(min_length=1)  # of each site; "release" where nothing was injected
    sites: Sites
    seed: int


class Place(_Part):
    """Where a fault is. Held out: no prompt and no ranking may read it."""

    function: str  # path::qualname
    lines: tuple[int, int]  # in the task's tree, both ends included


class Injected(_Part):
    """The metadata of a task with injected bugs."""

    split: Split
    recipe: Recipe
    gold: tuple[Place, ...] = Field(min_length=1)


def injected(task: Task) -> Injected:
    """Return what a task's metadata says of its bug.

    Raises:
        InputError: the task is not one of `bench make`.
    """
    try:
        return Injected.model_validate({name: task.metadata.get(name) for name in Injected.model_fields})
    except ValidationError as exc:
        problem = exc.errors()[0]
        raise InputError(
            f"{task.task_id} has no recipe: metadata.{'.'.join(map(str, problem['loc']))}: {problem['msg']}",
            hint="only task files of `loopwright bench make` can be built",
        ) from exc
