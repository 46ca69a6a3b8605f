"""Compares two batches in pairs, task by task: what each solved that the other did not, and at what cost."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import stats
from pipeline.exceptions import InputError
from pipeline.stats import Estimate

COSTS = {
    "num_tokens": "tokens",
    "num_prompt_tokens": "prompt tokens",
    "seconds": "seconds",
    "sandbox_seconds": "sandbox seconds",
}
_NAMED_KEYS = 8  # of settings that differ; the rest are counted


class Result(BaseModel):
    """What comparisons and benchmarks need of an instance's row in results.jsonl."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance_id: str
    outcome: Literal["solved", "unsolved", "invalid", "infra"]
    num_tokens: int = 0  # completion tokens
    num_prompt_tokens: int | None = None  # None: the row is of a time that did not count them
    seconds: float = 0.0
    sandbox_seconds: float = 0.0
    model: str = ""
    digest: str = ""  # of the task
    suspects: tuple[str, ...] = ()  # path::qualname, most suspect first
    solved_at: int | None = None  # drafts before the one that became the patch
    tokens_at: int | None = None  # completion tokens up to that one, itself included; None in older rows

    @property
    def is_solved(self) -> bool:
        """Say whether it ended with a patch that its tests accept."""
        return self.outcome == "solved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The results of a batch's folder."""

    folder: Path
    results: Mapping[str, Result]  # by instance
    settings: Mapping[str, Any]  # empty where the folder does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One measure of both batches, on the tasks that they share."""

    first: Estimate
    second: Estimate
    difference: Estimate  # second - first, in pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two batches, on the tasks that both have judged."""

    num_shared: int  # solved or unsolved in both: all numbers are of these
    num_both: int
    num_neither: int
    gained: tuple[str, ...]  # solved by the second alone
    lost: tuple[str, ...]  # solved by the first alone
    p_value: float  # exact McNemar, two-sided
    solved: Difference  # share of the tasks
    per_task: Mapping[str, Difference]  # of each of COSTS: means over tasks
    per_solved: Mapping[str, tuple[Estimate, Estimate]]  # the same, for each solved task
    only_first: tuple[str, ...]  # instances that the other batch has not
    only_second: tuple[str, ...]
    excluded_first: Mapping[str, int]  # shared ones that are invalid or infra there, by outcome
    excluded_second: Mapping[str, int]
    warnings: tuple[str, ...]


def read_batch(folder: Path) -> Batch:
    """Return what a batch's folder holds; of two rows of one instance the later counts.

    Raises:
        InputError: it is no folder of a batch, has no results yet, or a row cannot be read.
    """
    path = folder / "results.jsonl"
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as exc:
        raise InputError(
            f"{folder} holds no results of a batch: {exc.strerror}",
            hint="give the folder that `loopwright batch --out` wrote",
        ) from exc
    results = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            result = Result.model_validate_json(line)
        except ValidationError as exc:
            if number == len(lines):
                continue  # torn: the batch was killed while it wrote, or is writing
            problem = exc.errors()[0]
            raise InputError(
                f"{path} line {number} is no result: {'.'.join(map(str, problem['loc']))} {problem['msg']}"
            ) from exc
        results[result.instance_id] = result
    if not results:
        raise InputError(f"{path} holds no result yet", hint="let the batch end an instance first")
    return Batch(folder=folder, results=results, settings=_settings(folder / "batch.json"))


def cost_of(result: Result, name: str) -> float:
    """Return one of the COSTS of an instance; nan where its row does not say."""
    value = getattr(result, name)
    return math.nan if value is None else float(value)


def compare(first: Batch, second: Batch, *, seed: int = 0) -> Comparison:
    """Return the comparison on the instances that both batches judged.

    Raises:
        InputError: there is none.
    """
    shared = [name for name in first.results if name in second.results]
    excluded = [Counter(_excluded(batch, shared)) for batch in (first, second)]
    judged = [name for name in shared if _is_judged(first, name) and _is_judged(second, name)]
    if not judged:
        raise InputError(
            f"{first.folder} and {second.folder} have no instance that both judged",
            hint=f"shared by name: {len(shared)}; compare batches of the same task file",
        )
    a, b = ([batch.results[name] for name in judged] for batch in (first, second))
    gained = tuple(y.instance_id for x, y in zip(a, b, strict=True) if y.is_solved and not x.is_solved)
    lost = tuple(x.instance_id for x, y in zip(a, b, strict=True) if x.is_solved and not y.is_solved)
    num_both = sum(x.is_solved and y.is_solved for x, y in zip(a, b, strict=True))
    return Comparison(
        num_shared=len(judged),
        num_both=num_both,
        num_neither=len(judged) - num_both - len(gained) - len(lost),
        gained=gained,
        lost=lost,
        p_value=stats.mcnemar(len(lost), len(gained)),
        solved=_difference([float(x.is_solved) for x in a], [float(y.is_solved) for y in b], seed),
        per_task={name: _difference(_values(a, name), _values(b, name), seed) for name in COSTS},
        per_solved={name: (_per_solved(a, name, seed), _per_solved(b, name, seed)) for name in COSTS},
        only_first=tuple(name for name in first.results if name not in second.results),
        only_second=tuple(name for name in second.results if name not in first.results),
        excluded_first=excluded[0],
        excluded_second=excluded[1],
        warnings=tuple(_warnings(first, second, judged)),
    )


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_bytes())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _is_judged(batch: Batch, name: str) -> bool:
    return batch.results[name].outcome in ("solved", "unsolved")


def _excluded(batch: Batch, names: Sequence[str]) -> Iterator[str]:
    return (batch.results[name].outcome for name in names if not _is_judged(batch, name))


def _values(results: Sequence[Result], name: str) -> list[float]:
    return [cost_of(result, name) for result in results]


def _difference(first: Sequence[float], second: Sequence[float], seed: int) -> Difference:
    return Difference(
        first=stats.mean(first, seed=seed),
        second=stats.mean(second, seed=seed),
        difference=stats.paired_difference(first, second, seed=seed),
    )


def _per_solved(results: Sequence[Result], name: str, seed: int) -> Estimate:
    solved = [float(result.is_solved) for result in results]
    return stats.ratio(_values(results, name), solved, seed=seed)


def _warnings(first: Batch, second: Batch, judged: Sequence[str]) -> Iterator[str]:
    if not first.settings or not second.settings:
        yield "the settings of a batch are not known: it has no readable batch.json"
    elif keys := sorted(_differing(first.settings, second.settings)):
        more = f" and {len(keys) - _NAMED_KEYS} more" if len(keys) > _NAMED_KEYS else ""
        yield f"the settings differ: {', '.join(keys[:_NAMED_KEYS])}{more}"
    models = [{batch.results[name].model for name in judged} for batch in (first, second)]
    if models[0] != models[1]:
        shown = (", ".join(sorted(filter(None, names))) or "none" for names in models)
        yield f"the models differ: {' against '.join(shown)}"
    digests = [(first.results[name].digest, second.results[name].digest) for name in judged]
    if num := sum(a != b for a, b in digests):
        yield f"{num} instances have the same id and are not the same task"


def _differing(first: Any, second: Any, key: str = "") -> Iterator[str]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for name in first.keys() | second.keys():
            yield from _differing(first.get(name), second.get(name), f"{key}.{name}" if key else str(name))
    elif first != second:
        yield key
