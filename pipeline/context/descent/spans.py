"""A unit as a span of an answer."""

from __future__ import annotations

from pipeline.context.reading import Span
from pipeline.context.units import Unit


def span_of(unit: Unit, score: float, evidence: tuple[str, ...]) -> Span:
    """Return the place of a unit, with what speaks for it."""
    node = unit.node
    return Span(
        path=node.path,
        qualname=node.qualname if node.kind == "function" else "",
        start_line=node.start_line,
        end_line=node.end_line,
        score=score,
        evidence=evidence,
        node_id=node.node_id,
    )
