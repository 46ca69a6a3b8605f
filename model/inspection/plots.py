"""Small plots as inline SVG: a heat map, lines, paths in a plane, bars. Tooltips hold the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from model.inspection.trajectory import Trajectory

_CELL_WIDTH, _CELL_HEIGHT, _MARGIN = 46, 22, 46
_WIDTH, _HEIGHT = 420, 240
_CHARACTER_WIDTH = 7
_WIDE_SPREAD = 20
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")


def heat_map(title: str, rows: Mapping[int, Mapping[int, float | None]]) -> str:
    """Return one cell for each loop (row) and layer (column), darker for more."""
    columns = sorted({column for row in rows.values() for column in row})
    known = [value for row in rows.values() for value in row.values() if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    body = []
    for i, (loop, row) in enumerate(rows.items()):
        y = _MARGIN + i * _CELL_HEIGHT
        body.append(_text(_MARGIN - 6, y + 15, f"loop {loop}", anchor="end"))
        for j, column in enumerate(columns):
            value = row.get(column)
            body.append(_cell(_MARGIN + j * _CELL_WIDTH, y, value, low, high, f"loop {loop}, layer {column}"))
    body += [
        _text(_MARGIN + (j + 0.5) * _CELL_WIDTH, _MARGIN - 6, str(column)) for j, column in enumerate(columns)
    ]
    body.append(_text(_MARGIN, 14, title, anchor="start", is_bold=True))
    width = max(len(columns) * _CELL_WIDTH, _CHARACTER_WIDTH * len(title))
    size = (_MARGIN + width + 10, _MARGIN + len(rows) * _CELL_HEIGHT + 10)
    return _svg(title, size, body)


def lines(title: str, series: Mapping[str, Mapping[int, float | None]]) -> str:
    """Return a line for each series over loops; logarithmic, and without zeros, where values spread wide."""
    points = {
        name: {x: y for x, y in one.items() if y is not None and math.isfinite(y)}
        for name, one in series.items()
    }
    every = [y for one in points.values() for y in one.values()]
    above = [y for y in every if y > 0]
    is_log = bool(above) and min(every) >= 0 and max(above) > _WIDE_SPREAD * min(above)
    if is_log:
        every = above
        points = {name: {x: y for x, y in one.items() if y > 0} for name, one in points.items()}
    loops = sorted({x for one in points.values() for x in one}) or [1]
    heights = [math.log10(y) if is_log else y for y in every] or [0.0]
    x_of = _scale(loops[0], loops[-1], _MARGIN, _WIDTH - 20)
    y_of = _scale(min(heights), max(heights), _HEIGHT - 30, 50)
    body = [_text(10, 14, title + (" (log)" if is_log else ""), anchor="start", is_bold=True)]
    body += [_text(x_of(loop), _HEIGHT - 10, str(loop)) for loop in loops]
    for height in sorted({min(heights), max(heights)}):
        value = 10**height if is_log else height
        body.append(_text(_MARGIN - 6, y_of(height) + 4, _short(value), anchor="end"))
    for i, (name, one) in enumerate(points.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        places = [(x_of(x), y_of(math.log10(y) if is_log else y)) for x, y in one.items()]
        body.append(_path(places, colour))
        body += [
            _dot(place, colour, 3, f"{name}, loop {x}: {_short(y)}")
            for place, (x, y) in zip(places, one.items(), strict=True)
        ]
        body.append(_text(_MARGIN + 130 * i, 32, name, anchor="start", colour=colour))
    return _svg(title, (_WIDTH, _HEIGHT), body)


def paths(title: str, trajectories: Sequence[Trajectory]) -> str:
    """Return each layer's path: a ring where it began, a disc at a fixed point, a square on a cycle."""
    size = 420
    every = [point for one in trajectories for point in one.points] or [(0.0, 0.0)]
    x_of = _scale(min(x for x, _ in every), max(x for x, _ in every), 30, size - 30)
    y_of = _scale(min(y for _, y in every), max(y for _, y in every), size - 30, 60)
    body = [_text(10, 14, title, anchor="start", is_bold=True)]
    for i, one in enumerate(trajectories):
        colour = _COLOURS[i % len(_COLOURS)]
        places = [(x_of(x), y_of(y)) for x, y in one.points]
        what = f"layer {one.layer}: {one.kind}" + (f" of {one.period} loops" if one.period else "")
        body.append(_path(places, colour))
        body += [
            _dot(place, colour, 2.5, f"{what}; after loop {k + 1}") for k, place in enumerate(places[1:-1], 1)
        ]
        body.append(_dot(places[0], "white", 4, f"{what}; after loop 1", stroke=colour))
        body.append(_end(places, one, colour, what))
        body.append(
            _text(places[-1][0] + 8, places[-1][1] - 6, str(one.layer), anchor="start", colour=colour)
        )
    return _svg(title, (size, size), body)


def bars(title: str, counts: Mapping[int, int]) -> str:
    """Return one bar for each number of loops."""
    most = max(counts.values(), default=1)
    body = [_text(10, 14, title, anchor="start", is_bold=True)]
    for i, (loops, count) in enumerate(counts.items()):
        x, height = _MARGIN + i * 44, 150 * count / most
        body.append(
            f'<rect x="{x}" y="{200 - height:.1f}" width="34" height="{height:.1f}" fill="{_COLOURS[0]}">'
            f"<title>{count} tokens after {loops} loops</title></rect>"
        )
        body += [_text(x + 17, 216, str(loops)), _text(x + 17, 194 - height, str(count))]
    return _svg(title, (max(_WIDTH, _MARGIN + len(counts) * 44), _HEIGHT - 10), body)


def _end(places: Sequence[tuple[float, float]], one: Trajectory, colour: str, what: str) -> str:
    x, y = places[-1]
    if one.kind == "cycle":
        return (
            f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="none" stroke="{colour}" '
            f'stroke-width="2"><title>{escape(what)}</title></rect>'
        )
    return _dot((x, y), colour, 7 if one.kind == "fixed point" else 3, what)


def _cell(x: float, y: float, value: float | None, low: float, high: float, what: str) -> str:
    if value is None:
        return ""
    share = (value - low) / (high - low) if high > low else 0.0
    ink = "white" if share > 0.6 else "#222"
    return (
        f'<g><title>{escape(what)}: {value:.6g}</title><rect x="{x}" y="{y}" width="{_CELL_WIDTH - 2}" '
        f'height="{_CELL_HEIGHT - 2}" fill="hsl(210 70% {96 - 66 * share:.0f}%)"/>'
        f"{_text(x + _CELL_WIDTH / 2 - 1, y + 14, _short(value), colour=ink)}</g>"
    )


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    if high <= low:
        return lambda _: (start + stop) / 2
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.1e}"


def _path(places: Sequence[tuple[float, float]], colour: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _dot(place: tuple[float, float], colour: str, radius: float, what: str, stroke: str = "none") -> str:
    x, y = place
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" stroke="{stroke}" stroke-width="2">'
        f"<title>{escape(what)}</title></circle>"
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", colour: str = "#222", is_bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if is_bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'
    )


def _svg(title: str, size: tuple[float, float], body: Sequence[str]) -> str:
    width, height = size
    return (
        f'<svg role="img" aria-label="{escape(title)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">{"".join(body)}</svg>'
    )
