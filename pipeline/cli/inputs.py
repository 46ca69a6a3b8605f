"""Turns what a user typed after `fix` into a task and settings, and refuses early what cannot work."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.config import Settings, load_settings, merge
from pipeline.core import Task
from pipeline.exceptions import InputError

_MAX_ISSUE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The options of `fix` that change the settings. None means that the option was not given."""

    config: str | None = None
    depth: int | None = None  # of every round, at least
    max_depth: int | None = None
    candidates: int | None = None  # of every round
    rounds: int | None = None
    model: str | None = None
    endpoint: str | None = None
    sandbox: str | None = None
    seed: int | None = None
    wall_seconds: float | None = None
    assignments: Sequence[str] = field(default_factory=tuple)  # "limits.num_tokens=5000"


def resolve_settings(flags: Flags) -> Settings:
    """Return the settings that the flags, the variables and the file ask for together.

    Raises:
        InputError: a value or a key that cannot be, or flags that contradict each other.
    """
    settings = load_settings(_config_path(flags.config) if flags.config else None, _overrides(flags))
    return _with_ladder(settings, flags)


def read_issue(issue: str) -> str:
    """Return the statement of the task: the text itself, what a file of that name holds, or stdin for "-".

    Raises:
        InputError: a file that is missing, unreadable or too long.
    """
    if issue == "-":
        return _decoded(sys.stdin.buffer.read(_MAX_ISSUE_BYTES + 1), "the issue on stdin")
    if len(issue) > 4000 or "\n" in issue:
        return _decoded(issue.encode(errors="surrogateescape"), "the issue")
    path = Path(issue).expanduser()
    try:
        if path.is_file():
            with path.open("rb") as stream:
                return _decoded(stream.read(_MAX_ISSUE_BYTES + 1), f"the issue {path}")
    except OSError as exc:
        raise InputError(f"cannot read the issue {path}: {exc.strerror}") from exc
    if re.fullmatch(r"\S+\.(md|txt|rst)|\.{0,2}/\S+", issue):
        raise InputError(
            f"there is no issue file {issue}", hint="give a file, a text in quotes, or - for stdin"
        )
    return issue


def make_task(
    repo: str,
    *,
    settings: Settings,
    statement: str = "",
    test_command: str | None = None,
    tests: Sequence[str] = (),
    base_commit: str | None = None,
    functions: Sequence[str] = (),
    kind: Literal["fix", "implement"] = "fix",
) -> Task:
    """Return the task of a run.

    Raises:
        InputError: the repository is no repository, the test command is empty, or a function has no path.
    """
    from pipeline.workspace.clone import is_url
    from pipeline.workspace.git import locate_repository

    name = (
        Path(re.sub(r"(\.git)?/*$", "", repo)).name
        if is_url(repo)
        else Path(repo).expanduser().resolve().name
    )
    if not is_url(repo):
        path = Path(repo).expanduser().absolute()
        locate_repository(path)
        repo = str(path)
    if test_command is not None and not test_command.strip():
        raise InputError(
            "the test command is empty", hint="leave --test-command out to run `python -m pytest`"
        )
    for function in functions:
        if not re.fullmatch(r"[^:]+\.py::[\w.]+", function):
            raise InputError(
                f"--function {function!r} does not say where", hint="for example pkg/numbers.py::clamp"
            )
    return Task(
        task_id=_slug(name),
        repo=repo,
        base_commit=base_commit,
        statement=statement,
        fail_to_pass=tuple(tests),
        functions=tuple(functions),
        kind=kind,
        limits=settings.limits,
        test_command=test_command or Task.model_fields["test_command"].default,
    )


def _config_path(name: str) -> Path:
    """Return a file of the user's, or the shipped configuration of that name."""
    path = Path(name).expanduser()
    if path.is_file() or not re.fullmatch(r"[\w-]+", name):
        return path
    shipped = _shipped_configs()
    if name not in shipped:
        raise InputError(f"there is no configuration {name!r}", hint=f"shipped: {', '.join(sorted(shipped))}")
    return shipped[name]


def _shipped_configs() -> dict[str, Path]:
    package = Path(__file__).parents[1]  # an installation has them inside the package, a checkout beside it
    folders = (package / "configs", package.parent / "configs")
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml")}


def _overrides(flags: Flags) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for assignment in flags.assignments:
        values = merge(values, _assignment(assignment))
    endpoint: dict[str, Any] = {"url": flags.endpoint}
    if flags.endpoint:
        endpoint |= {"model": flags.model, "max_recurrence_depth": flags.max_depth}
    named = {
        "model": None if flags.endpoint else flags.model,
        "endpoint": endpoint,
        "sandbox": {"kind": flags.sandbox},
        "planner": {"seed": flags.seed},
        "limits": {
            "wall_seconds": flags.wall_seconds,
            "num_rounds": flags.rounds,
            "max_recurrence_depth": flags.max_depth,
        },
    }
    return merge(values, _given(named))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without those that are None, and without sections that are left empty."""
    inner = {k: _given(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    return {k: v for k, v in inner.items() if v is not None and v != {}}


def _assignment(text: str) -> dict[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(
            f"--set takes KEY=VALUE, not {text!r}", hint="for example --set limits.num_tokens=5000"
        )
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as exc:
        raise InputError(f"--set {key}: {value!r} is not a YAML value") from exc
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return nested


def _with_ladder(settings: Settings, flags: Flags) -> Settings:
    """Return the settings with as many rungs as rounds, each within the depths that were asked for."""
    max_depth = settings.limits.max_recurrence_depth
    if settings.endpoint.url:
        max_depth = min(max_depth, settings.endpoint.max_recurrence_depth)
    min_depth = flags.depth or 0  # 0 stays what it is: the model's own
    if min_depth > max_depth:
        raise InputError(
            f"depth {min_depth} is above the maximum depth {max_depth}",
            hint=f"raise it: --max-depth {min_depth}",
        )
    ladder = list(settings.planner.ladder[: settings.limits.num_rounds])
    ladder += [ladder[-1]] * (
        (flags.rounds or 0) - len(ladder)
    )  # more rounds than rungs climb the last again
    ladder = [
        rung.model_copy(
            update={
                "recurrence_depth": min(max(rung.recurrence_depth, min_depth), max_depth),
                "num_candidates": flags.candidates or rung.num_candidates,
            }
        )
        for rung in ladder
    ]
    limits = settings.limits.model_copy(update={"max_recurrence_depth": max_depth})
    if flags.candidates:  # asked for by name, so the sum of all rounds must not cut it short
        total = max(limits.num_candidates, flags.candidates * len(ladder))
        limits = limits.model_copy(update={"num_candidates": total})
    planner = settings.planner.model_copy(update={"ladder": tuple(ladder)})
    return settings.model_copy(update={"planner": planner, "limits": limits})


def _decoded(data: bytes, what: str) -> str:
    if len(data) > _MAX_ISSUE_BYTES:
        raise InputError(f"{what} is longer than {_MAX_ISSUE_BYTES >> 20} MiB")
    return data.decode("utf-8-sig", "replace").strip()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "repository"
