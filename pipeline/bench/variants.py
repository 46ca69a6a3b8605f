"""The variants of an ablation: each the settings of a batch, and what its tasks tell of fault and tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config import merge, read_yaml
from pipeline.exceptions import InputError

_MAX_SITES = 3  # functions that a task names at most
Design = Literal["one_at_a_time", "grid"]


class Variant(BaseModel):
    """One way to search. Variants spend the same number of drafts, unless `candidates` is an axis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""  # empty: as the settings say
    localisation: Literal["own", "oracle"] = "own"  # oracle: the task names the faulty functions
    strategy: Literal["line", "insert", "definition"] = "line"
    decoding: Literal["splice", "branch", "sample"] = "branch"
    depth: int = Field(default=1, ge=1)  # passes through the recurrent block
    context: Literal["narrow", "wide"] = "narrow"
    feedback: bool = False  # the second half of the drafts sees the best failing one of the first half
    candidates: int = Field(default=32, ge=2)
    suspects: int = Field(default=2, ge=1)
    temperature: float = Field(default=0.8, ge=0)
    seed: int = 0
    # half: the search is told of half of the tests of each task, and its patches are judged with all.
    tests: Literal["all", "half"] = "all"

    def settings(self, base: Mapping[str, Any], max_depth: int) -> dict[str, Any]:
        """Return the settings of the batch: `base`, with one rung, or two where there is feedback."""
        num = self.candidates // 2 if self.feedback else self.candidates
        rung = {
            "strategy": self.strategy,
            "decoding": self.decoding,
            "num_candidates": num,
            "num_suspects": self.suspects if self.localisation == "own" else _MAX_SITES,
            "recurrence_depth": self.depth,
            "temperature": self.temperature,
            "context": self.context,
        }
        again = {**rung, "num_candidates": self.candidates - num, "feedback": True}
        ladder = [rung, again] if self.feedback else [rung]
        own: dict[str, Any] = {
            "planner": {"ladder": ladder, "policy": "ladder", "seed": self.seed},
            "limits": {
                "num_rounds": len(ladder),
                "num_candidates": self.candidates,
                # The same for all variants: it decides what the engine is started with.
                "max_recurrence_depth": max_depth,
            },
        }
        if self.model:
            own["model"] = self.model
        return merge(base, own)


class Plan(BaseModel):
    """What is varied: a value or several for each axis, the first of which is the baseline's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    design: Design = "one_at_a_time"
    axes: dict[str, list[Any]] = Field(default_factory=dict)  # by a field of Variant
    more: dict[str, dict[str, Any]] = Field(default_factory=dict)  # by name: several changes of the baseline
    settings: dict[str, Any] = Field(default_factory=dict)  # of every variant, as in a configuration file

    def variants(self) -> dict[str, Variant]:
        """Return the variants by name, the baseline first.

        Raises:
            InputError: an axis or a value that there is not.
        """
        axes = {name: list(dict.fromkeys(values)) for name, values in self.axes.items()}
        if empty := [name for name, values in axes.items() if not values]:
            raise InputError(f"the axis {empty[0]} has no value")
        points = _grid(axes) if self.design == "grid" else _one_at_a_time(axes)
        base = {name: values[0] for name, values in axes.items()}
        more = {name: _variant({**base, **changes}) for name, changes in self.more.items()}
        return {_name(point, base): _variant(point) for point in points} | more


def read_plan(path: Path) -> Plan:
    """Return the plan that a YAML file holds: design, axes, more, settings.

    Raises:
        InputError: it cannot be read, or says something that there is not.
    """
    values = read_yaml(path)
    axes = values.get("axes")
    if isinstance(axes, Mapping):  # a single value needs no list
        values["axes"] = {name: v if isinstance(v, list) else [v] for name, v in axes.items()}
    try:
        return Plan.model_validate(values)
    except ValidationError as exc:
        problem = exc.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from exc


def _one_at_a_time(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    base = {name: values[0] for name, values in axes.items()}
    yield base
    for name, values in axes.items():
        yield from ({**base, name: value} for value in values[1:])


def _grid(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _name(point: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Return the variant's name: in what it differs from the baseline. It is also a folder's."""
    parts = [f"{name}-{_word(value)}" for name, value in point.items() if value != base[name]]
    return "_".join(parts) or "baseline"


def _word(value: Any) -> str:
    text = {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in Path(text).name)


def _variant(point: Mapping[str, Any]) -> Variant:
    try:
        return Variant.model_validate(point)
    except ValidationError as exc:
        problem = exc.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise InputError(
            f"the axis {name}: {problem['msg']} (got {problem['input']!r})",
            hint=f"the axes are {', '.join(Variant.model_fields)}",
        ) from exc
