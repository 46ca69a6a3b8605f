"""The report of an ablation: Markdown for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.bench.measure import Against, Figures, OverFit
from pipeline.bench.variants import Variant
from pipeline.compare import COSTS
from pipeline.stats import RECALL_AT, SOLVED_AT, SOLVED_WITHIN, Estimate, json_ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A variant with its numbers."""

    variant: Variant
    figures: Figures
    against: Against | None  # the baseline; None for itself
    over_fit: OverFit | None = None  # None where the search saw all tests


def report_json(measured: Mapping[str, Measured], conditions: Mapping[str, Any]) -> str:
    """Return everything as JSON; what is not finite is null."""
    variants = {
        name: {
            "variant": one.variant.model_dump(),
            "figures": asdict(one.figures),
            "against_baseline": asdict(one.against) if one.against else None,
            "over_fit": asdict(one.over_fit) if one.over_fit else None,
        }
        for name, one in measured.items()
    }
    return json.dumps(json_ready({"conditions": conditions, "variants": variants}), indent=1) + "\n"


def report_markdown(measured: Mapping[str, Measured], conditions: Mapping[str, Any]) -> str:
    """Return the report: conditions, ablation, over-fit, solved by drafts and by tokens, recall@k, parts."""
    return "\n".join(_report(measured, conditions)) + "\n"


def _report(measured: Mapping[str, Measured], conditions: Mapping[str, Any]) -> Iterator[str]:
    yield from ("# Benchmark", "")
    yield from (f"- {name}: {value}" for name, value in conditions.items())
    yield (
        "- brackets: 95 % percentile bootstrap over tasks (the over-fit rate: Clopper-Pearson);"
        " p: exact McNemar against the baseline"
    )
    yield "- invalid and infra outcomes are left out of every number and counted in the last column"
    yield from ("", "## Ablation", "")
    yield from _ablation(measured)
    if any(one.over_fit for one in measured.values()):
        head = "Patches of searches that saw half of the tests, judged with all. Everywhere else their"
        yield from ("", "## Held-back tests", "", f"{head} `solved` is by the visible tests.", "")
        yield from _over_fit(measured)
    yield from ("", "## solved@k", "", "One of the first k drafts of the run solves the task (%).", "")
    yield from _curves(measured, SOLVED_AT, "solved_at")
    if any(one.figures.solved_within for one in measured.values()):
        head = (
            "The run's drafts up to the one that solves the task have at most so many completion tokens (%)."
        )
        yield from ("", "## Solved within a token budget", "", head, "")
        yield from _curves(measured, SOLVED_WITHIN, "solved_within")
    if any(one.figures.recall_at for one in measured.values()):
        head = "All functions of the bug are among the first k suspects (%); the search's own ranking."
        yield from ("", "## Localisation recall@k", "", head, "")
        yield from _curves(measured, RECALL_AT, "recall_at")
    yield from ("", "## Parts", "", "Solved (%), by part of the benchmark.", "")
    yield from _parts(measured)


def _ablation(measured: Mapping[str, Measured]) -> Iterator[str]:
    costs = [f"{title} per solved" for title in COSTS.values()]
    head = ["variant", "tasks", "solved, %", "against the baseline, points", "+ / -", "p", *costs, "left out"]
    yield from _head(head)
    for name, one in measured.items():
        found, other = one.figures, one.against
        difference = [other.solved.shown(100, "+"), f"{other.num_gained} / {other.num_lost}"] if other else []
        yield _row(
            [
                f"`{name}`",
                found.num_tasks,
                found.solved.shown(100),
                *(difference or ["", ""]),
                f"{other.p_value:.3f}" if other else "",
                *(found.per_solved[cost].shown() for cost in COSTS),
                ", ".join(f"{num} {outcome}" for outcome, num in sorted(found.excluded.items())) or "none",
            ]
        )


def _over_fit(measured: Mapping[str, Measured]) -> Iterator[str]:
    yield from _head(
        ["variant", "solved by the visible tests", "with tests held back", "fail one", "over-fit rate, %"]
    )
    for name, one in measured.items():
        if found := one.over_fit:
            counts = (found.num_solved, found.num_checked, found.num_over_fit)
            yield _row([f"`{name}`", *counts, found.rate.shown(100)])


def _curves(measured: Mapping[str, Measured], ks: Iterable[int], field: str) -> Iterator[str]:
    ks = list(ks)
    yield from _head(["variant", *(f"@{k}" for k in ks)])
    for name, one in measured.items():
        curve: Mapping[int, Estimate] = getattr(one.figures, field)
        if curve:
            most = one.variant.candidates if field == "solved_at" else max(ks)
            yield _row([f"`{name}`", *(curve[k].shown(100) if k <= most else "" for k in ks)])


def _parts(measured: Mapping[str, Measured]) -> Iterator[str]:
    names = sorted({name for one in measured.values() for name in one.figures.by_group})
    yield from _head(["part", *(f"`{name}`" for name in measured)])
    for part in names:
        cells = [one.figures.by_group.get(part) for one in measured.values()]
        yield _row([part, *(f"{cell.shown(100)} of {cell.num}" if cell else "" for cell in cells)])


def _head(cells: list[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
