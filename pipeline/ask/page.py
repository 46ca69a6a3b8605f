"""Renders a reading as one self-contained HTML page: question, answer, places, and the tree of events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.account import Event, branches_of
from pipeline.context.reading import Answer
from pipeline.report.page import policy_hash, template_environment

_FOLDER = Path(__file__).parent
_REPORT_STYLE = _FOLDER.parent / "report" / "style.css"
_MAX_SPANS = 50


def render_reading(question: str, answer: Answer, events: Sequence[Event]) -> str:
    """Return the page."""
    style = _REPORT_STYLE.read_text("utf-8")
    return (
        template_environment(_FOLDER)
        .get_template("page.html.j2")
        .render(
            style=style,
            style_hash=policy_hash(style),
            question=question,
            answer=answer,
            spans=answer.spans[:_MAX_SPANS],
            branches=branches_of(events),
        )
    )
