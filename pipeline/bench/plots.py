"""Plots of an ablation: solved by drafts and by tokens, recall@k, what a solved task costs; by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.bench.report import Measured
from pipeline.compare import COSTS
from pipeline.exceptions import EnvironmentBrokenError
from pipeline.stats import Estimate


def require_matplotlib() -> None:
    """Raise EnvironmentBrokenError where it is not installed."""
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError as exc:
        raise EnvironmentBrokenError(
            "plots need matplotlib, which is not installed",
            hint="pip install 'loopwright[bench]', or leave them out with --no-plots",
        ) from exc


def write_plots(measured: Mapping[str, Measured], folder: Path) -> list[Path]:
    """Write solved.png, cost.png and, where there are numbers, within.png and recall.png; return the paths.

    Raises:
        EnvironmentBrokenError: matplotlib is not installed.
    """
    require_matplotlib()
    solved = {
        name: {k: e for k, e in one.figures.solved_at.items() if k <= one.variant.candidates}
        for name, one in measured.items()
    }
    within = {name: one.figures.solved_within for name, one in measured.items() if one.figures.solved_within}
    recall = {name: one.figures.recall_at for name, one in measured.items() if one.figures.recall_at}
    paths = [_curves(solved, "drafts", "tasks solved, %", folder / "solved.png")]
    if within:
        paths.append(_curves(within, "completion tokens", "tasks solved, %", folder / "within.png"))
    if recall:
        paths.append(_curves(recall, "suspects", "faults among them, %", folder / "recall.png"))
    return [*paths, _costs(measured, folder / "cost.png")]


def _curves(curves: Mapping[str, Mapping[int, Estimate]], x: str, y: str, path: Path) -> Path:
    figure = _figure()
    axes = figure.subplots()
    for name, curve in curves.items():
        ks = sorted(curve)
        axes.plot(ks, [100 * curve[k].value for k in ks], marker="o", label=name)
        bounds = [[100 * getattr(curve[k], end) for k in ks] for end in ("low", "high")]
        axes.fill_between(ks, *bounds, alpha=0.12)
    axes.set(xlabel=x, ylabel=y, xscale="log", xticks=sorted({k for curve in curves.values() for k in curve}))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _saved(figure, path)


def _costs(measured: Mapping[str, Measured], path: Path) -> Path:
    figure = _figure()
    names = list(measured)
    places = figure.subplots(1, len(COSTS), sharey=True)
    places[0].invert_yaxis()  # of all: they share it
    for place, (cost, title) in zip(places, COSTS.items(), strict=True):
        estimates = [measured[name].figures.per_solved[cost] for name in names]
        values = [e.value if math.isfinite(e.value) else 0 for e in estimates]
        spread = [
            [
                max(v - e.low, 0) if math.isfinite(e.low) else 0
                for v, e in zip(values, estimates, strict=True)
            ],
            [
                max(e.high - v, 0) if math.isfinite(e.high) else 0
                for v, e in zip(values, estimates, strict=True)
            ],
        ]
        place.barh(names, values, xerr=spread, height=0.6)
        place.set_xlabel(f"{title} per solved task")
        place.grid(axis="x", alpha=0.3)
    return _saved(figure, path)


def _figure() -> Any:
    # Not pyplot: it keeps figures and may want a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120, metadata={"Software": None})
    return path
