"""The report of an ablation: Markdown for people, JSON for scripts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.bench.measure import Against, Figures
from pipeline.bench.variants import Variant
from pipeline.stats import RECALL_AT, SOLVED_AT, Estimate

_COSTS = {"num_tokens": "tokens", "seconds": "seconds", "sandbox_seconds": "sandbox seconds"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A variant with its numbers."""

    variant: Variant
    figures: Figures
    against: Against | None  # the baseline; None for itself


def report_json(measured: Mapping[str, Measured], conditions: Mapping[str, Any]) -> str:
    """Return everything as JSON; what is not finite is null."""
    variants = {
        name: {
            "variant": one.variant.model_dump(),
            "figures": asdict(one.figures),
            "against_baseline": asdict(one.against) if one.against else None,
        }
        for name, one in measured.items()
    }
    return json.dumps(_finite({"conditions": conditions, "variants": variants}), indent=1) + "\n"


def report_markdown(measured: Mapping[str, Measured], conditions: Mapping[str, Any]) -> str:
    """Return the report: conditions, ablation table, solved@k, recall@k, and the parts of the benchmark."""
    return "\n".join(_report(measured, conditions)) + "\n"


def _report(measured: Mapping[str, Measured], conditions: Mapping[str, Any]) -> Iterator[str]:
    yield from ("# Benchmark", "")
    yield from (f"- {name}: {value}" for name, value in conditions.items())
    yield "- brackets: 95 % percentile bootstrap over tasks; p: exact McNemar against the baseline"
    yield "- invalid and infra outcomes are left out of every number and counted in the last column"
    yield from ("", "## Ablation", "")
    yield from _ablation(measured)
    yield from ("", "## solved@k", "", "One of the first k drafts of the run solves the task (%).", "")
    yield from _curves(measured, SOLVED_AT, "solved_at")
    if any(one.figures.recall_at for one in measured.values()):
        head = "All functions of the bug are among the first k suspects (%); the search's own ranking."
        yield from ("", "## Localisation recall@k", "", head, "")
        yield from _curves(measured, RECALL_AT, "recall_at")
    yield from ("", "## Parts", "", "Solved (%), by part of the benchmark.", "")
    yield from _parts(measured)


def _ablation(measured: Mapping[str, Measured]) -> Iterator[str]:
    costs = [f"{title} per solved" for title in _COSTS.values()]
    head = ["variant", "tasks", "solved, %", "against the baseline, points", "+ / -", "p", *costs, "left out"]
    yield from _head(head)
    for name, one in measured.items():
        found, other = one.figures, one.against
        difference = (
            [_shown(other.solved, 100, "+"), f"{other.num_gained} / {other.num_lost}"] if other else []
        )
        yield _row(
            [
                f"`{name}`",
                found.num_tasks,
                _shown(found.solved, 100),
                *(difference or ["", ""]),
                f"{other.p_value:.3f}" if other else "",
                *(_shown(found.per_solved[cost], 1) for cost in _COSTS),
                ", ".join(f"{num} {outcome}" for outcome, num in sorted(found.excluded.items())) or "none",
            ]
        )


def _curves(measured: Mapping[str, Measured], ks: Iterable[int], field: str) -> Iterator[str]:
    ks = list(ks)
    yield from _head(["variant", *(f"@{k}" for k in ks)])
    for name, one in measured.items():
        curve: Mapping[int, Estimate] = getattr(one.figures, field)
        if curve:
            most = one.variant.candidates if field == "solved_at" else max(ks)
            yield _row([f"`{name}`", *(_shown(curve[k], 100) if k <= most else "" for k in ks)])


def _parts(measured: Mapping[str, Measured]) -> Iterator[str]:
    names = sorted({name for one in measured.values() for name in one.figures.by_group})
    yield from _head(["part", *(f"`{name}`" for name in measured)])
    for part in names:
        cells = [one.figures.by_group.get(part) for one in measured.values()]
        yield _row([part, *(f"{_shown(cell, 100)} of {cell.num}" if cell else "" for cell in cells)])


def _head(cells: list[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _shown(estimate: Estimate, scale: float, sign: str = "") -> str:
    def number(value: float) -> str:
        if math.isnan(value):
            return "-"
        return f"{value * scale:{sign}.{0 if abs(value * scale) >= 1000 else 1}f}"

    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
