"""Renders the report page from a run's record: every text in it is cleaned, clipped and escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.account import branches_of
from pipeline.core import VerdictKind
from pipeline.report import figures
from pipeline.runs import CandidateRecord, RunRecord
from pipeline.text import clip, count, duration, printable, printable_block

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent
_MAX_DIFF_LINES = 3000
_MAX_PATCH_CHARS = 2_000_000
_STATUS_LABELS = {
    "solved": "Solved",
    "unsolved": "Unsolved",
    "running": "Not finished",
    "nothing_to_repair": "Nothing to repair",
    "failed": "Failed",
    "interrupted": "Interrupted",
}


def render(record: RunRecord) -> str:
    """Return the report as one self-contained HTML page, whatever state the run is in."""
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    return (
        template_environment(_FOLDER)
        .get_template("page.html.j2")
        .render(
            style=style,
            style_hash=policy_hash(style),
            record=record,
            status_label=_STATUS_LABELS[record.status],
            wall_seconds=figures.wall_seconds(record),
            num_tokens=record.num_completion_tokens,
            num_candidates=len(figures.candidates_of(record)),
            winner=_winner(record),
            patch_is_exact=record.patch is not None and _is_shown_exactly(record.patch.diff),
            branches=branches_of(record.reading.events) if record.reading else (),
            costs=figures.cost_by_depth(record),
            limits=figures.limit_uses(record),
            num_over_sandbox_limits=sum(
                c.verdict is not None and c.verdict.kind is VerdictKind.TIMED_OUT
                for c in figures.candidates_of(record)
            ),
            settings_text=json.dumps(record.settings, indent=2, default=str),
            top_score=max((suspect.score for suspect in record.suspects), default=0.0),
        )
    )


def policy_hash(text: str) -> str:
    """Return the hash by which a page's policy allows a style sheet or a script of its own."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def template_environment(folder: Path) -> Environment:
    """Return what renders a folder's templates and the report's: texts cleaned, escaped, names defined."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([folder, _FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Runs on every value before it is escaped, so no expression can forget it.
        finalize=lambda value: (
            printable_block(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    environment.filters |= {
        "block": lambda text, max_chars=40_000: clip(text, max_chars),
        "whole_patch": lambda diff: clip(diff, _MAX_PATCH_CHARS, _MAX_PATCH_CHARS),
        "line": lambda text, max_chars=300: printable(text, max_chars),
        "duration": duration,
        "diff_lines": lambda diff: list(_diff_lines(diff)),
        "count": count,
        "verdict": _verdict_name,
        "moment": lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S %Z").strip(),
    }
    # The style sheet is ours, and must stay byte for byte what its hash in the page's policy says.
    environment.globals["as_is"] = Markup
    return environment


def _diff_lines(diff: str) -> Iterator[tuple[str, str]]:
    """Yield each line of a unified diff with the class that colours it."""
    lines = clip(diff, 400_000).removesuffix("\n").split("\n")
    for line in lines[:_MAX_DIFF_LINES]:
        yield _diff_class(line), line
    if len(lines) > _MAX_DIFF_LINES:
        yield "hunk", f"[… {len(lines) - _MAX_DIFF_LINES} lines left out …]"


def _diff_class(line: str) -> str:
    if line.startswith(("+++ ", "--- ", "diff ", "index ")):
        return "file"
    return {"+": "added", "-": "removed", "@": "hunk"}.get(line[:1], "same")


def _verdict_name(candidate: CandidateRecord) -> str:
    if candidate.verdict is not None:
        return candidate.verdict.kind.value
    return "refused" if candidate.candidate.refused else "untested"


def _winner(record: RunRecord) -> CandidateRecord | None:
    chosen = record.patch.candidate_id if record.patch else ""
    return next((c for c in figures.candidates_of(record) if c.candidate.candidate_id == chosen), None)


def _is_shown_exactly(diff: str) -> bool:
    return len(diff) <= _MAX_PATCH_CHARS and printable_block(diff) == diff
