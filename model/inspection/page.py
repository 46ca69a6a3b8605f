"""Renders inspections as one self-contained page: inline plots and tables, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from model.inspection import plots
from model.inspection.measures import Inspection

_FOLDER = Path(__file__).parent
_LAYER_PLOTS: Mapping[str, str] = {
    "relative_change": "Relative change since the loop before",
    "cosine": "Cosine to the loop before",
    "update_norm": "Norm of the layer's update",
    "hidden_rms": "RMS of the output",
    "attention_change": "Change of attention (total variation)",
}
_LOOP_PLOTS: Mapping[str, Mapping[str, str]] = {
    "State": {"relative_change": "relative change", "distance_to_last": "distance to the last"},
    "Read-out, nats": {"kl_to_previous": "from the loop before", "kl_to_last": "to the last loop"},
    "Hidden RMS": {"hidden_rms": "state"},
}


def render_page(inspections: Sequence[Inspection], *, title: str) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [(one, [Markup(plot) for plot in _plots(one)]) for one in inspections]  # noqa: S704 - our own
    return environment.get_template("page.html.j2").render(title=title, sections=sections)


def _plots(one: Inspection) -> list[str]:
    found = []
    for heading, measures in _LOOP_PLOTS.items():
        series = {
            name: {loop.loop: getattr(loop, measure) for loop in one.loops}
            for measure, name in measures.items()
        }
        found.append(plots.lines(heading, series))
    for measure, heading in _LAYER_PLOTS.items():
        rows: dict[int, dict[int, float | None]] = {}
        for cell in one.layers:
            rows.setdefault(cell.loop, {})[cell.layer] = getattr(cell, measure)
        if any(value is not None for row in rows.values() for value in row.values()):
            found.append(plots.heat_map(heading, rows))
    shown = f"Last token, PCA ({100 * one.shown_variance:.0f} % of the variance)"
    found.append(plots.paths(shown, one.trajectories))
    found.append(plots.bars("Tokens by loops taken", one.halting))
    return found
