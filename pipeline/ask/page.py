"""Renders a reading as one self-contained HTML page: question, answer, places, and the tree of events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.ask.account import branches_of
from pipeline.context.reading import Answer
from pipeline.context.reading_trace import Event
from pipeline.report.page import policy_hash, template_environment

_FOLDER = Path(__file__).parent
_REPORT_STYLE = _FOLDER.parent / "report" / "style.css"
_MAX_SPANS = 50


def render_reading(question: str, answer: Answer, events: Sequence[Event]) -> str:
    """Return the page."""
    style = "\n".join(path.read_text("utf-8") for path in (_REPORT_STYLE, _FOLDER / "page.css"))
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
