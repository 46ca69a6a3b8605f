"""Renders the summary page of a batch: one self-contained file, every text in it cleaned and escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.batch.folder import BatchFolder
from pipeline.batch.outcome import InstanceOutcome, Row
from pipeline.batch.summary import summarise
from pipeline.report.page import policy_hash, template_environment

_FOLDER = Path(__file__).parent
_REPORT_STYLE = _FOLDER.parent / "report" / "style.css"


def render_batch(folder: BatchFolder, rows: Sequence[Row]) -> str:
    """Return the page; it links to each instance's report beside it."""
    style = "\n".join(path.read_text("utf-8") for path in (_REPORT_STYLE, _FOLDER / "page.css"))
    script = (_FOLDER / "page.js").read_text("utf-8")
    return (
        template_environment(_FOLDER)
        .get_template("page.html.j2")
        .render(
            style=style,
            script=script,
            style_hash=policy_hash(style),
            script_hash=policy_hash(script),
            name=folder.path.name,
            summary=summarise(rows),
            outcomes=[outcome.value for outcome in InstanceOutcome],
            repos=sorted({row.repo for row in rows if row.repo}),
            rows=rows,
            links={row.instance_id: _link(folder, row) for row in rows},
        )
    )


def _link(folder: BatchFolder, row: Row) -> str:
    """Return the way to the instance's report, or an empty string where there is none."""
    if not row.digest or not folder.instance(row.instance_id).report_path.exists():
        return ""
    return f"instances/{row.instance_id}/report.html"
