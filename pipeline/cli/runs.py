"""`loopwright runs`: what was run, and one run in full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.run_store import find_run, load_run, run_folders
from pipeline.exceptions import InputError
from pipeline.text import clip, duration, printable, printable_block

if TYPE_CHECKING:
    from pipeline.runs import RunFolder, RunRecord

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List past runs and show one.")


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List past runs, newest first."""
    rows = [_row(folder) for folder in run_folders()[:limit]]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif rows:
        typer.echo(_columns(rows))
    else:
        typer.echo("no runs yet; `loopwright fix REPO` makes one", err=True)


@app.command("show")
def show_run(
    run_id: Annotated[str, typer.Argument(help='A run id, the beginning of one, or "last".')],
    as_json: Annotated[bool, typer.Option("--json", help="The whole trajectory as JSON.")] = False,
    patch: Annotated[bool, typer.Option("--patch", help="The patch alone, for `git apply`.")] = False,
    html: Annotated[bool, typer.Option("--html", help="The path of the report page.")] = False,
) -> None:
    """Show one run: its rounds and its patch."""
    if sum((as_json, patch, html)) > 1:
        raise InputError("--json, --patch and --html exclude each other")
    folder = find_run(run_id)
    record = load_run(folder)
    if as_json:
        typer.echo(json.dumps(record.model_dump(mode="json"), indent=1))
    elif patch:
        typer.echo(_patch_of(record), nl=False)
    elif html:
        typer.echo(_report_path(folder, record))
    else:
        typer.echo(_account(folder, record))


def _row(folder: RunFolder) -> dict[str, Any]:
    from pipeline.report.figures import wall_seconds

    try:
        record = load_run(folder)
    except InputError:  # killed before its first node ended, or damaged
        return {"run_id": folder.run_id, "status": "unreadable"}
    return {
        "run_id": folder.run_id,
        "status": record.status,
        "task": record.task.task_id,
        "repo": record.task.repo,
        "started_at": record.started_at.isoformat(),
        "seconds": round(wall_seconds(record), 1) if record.finished_at else None,
        "num_tokens": record.num_completion_tokens,
        "num_changed_lines": record.patch.num_changed_lines if record.patch else None,
    }


def _columns(rows: list[dict[str, Any]]) -> str:
    table = [("RUN", "STATUS", "TIME", "TOKENS", "PATCH", "TASK")]
    for row in rows:
        seconds, num_lines = row.get("seconds"), row.get("num_changed_lines")
        table.append(
            (
                row["run_id"],
                row["status"],
                "-" if seconds is None else duration(seconds),
                str(row.get("num_tokens", "-")),
                "-" if num_lines is None else f"{num_lines} lines",
                printable(str(row.get("task", "-"))),
            )
        )
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in table
    )


def _account(folder: RunFolder, record: RunRecord) -> str:
    from pipeline.report.figures import wall_seconds

    lines = [
        f"run       {folder.run_id}",
        f"status    {record.status}" + (f": {printable(record.reason)}" if record.reason else ""),
        f"task      {printable(record.task.task_id)} in {printable(record.task.repo)}",
        f"model     {printable(record.model) or '-'}",
        f"time      {duration(wall_seconds(record)) if record.finished_at else 'not finished'}",
        f"tokens    {record.num_completion_tokens}",
        f"folder    {folder.path}",
    ]
    if record.baseline:
        failing = record.baseline.fail_to_pass
        lines += ["", f"failing tests ({len(failing)}):", *(f"  {printable(test)}" for test in failing[:20])]
    for round_record in record.rounds:
        rung = round_record.rung
        lines += [
            "",
            f"round {round_record.number}: depth {rung.recurrence_depth}, temperature {rung.temperature}, "
            f"{rung.context} context{', with feedback' if rung.feedback else ''}, "
            f"drafting {duration(round_record.draft_seconds)}, testing {duration(round_record.test_seconds)}",
        ]
        for item in round_record.candidates:
            if item.verdict:
                fixed = f"fixed {item.verdict.num_fixed}/{item.verdict.num_target}"
                what = f"{item.verdict.kind.value}, {fixed}, broke {item.verdict.num_broken}"
            else:
                what = f"refused: {item.candidate.refused}" if item.candidate.refused else "not tested"
            where = item.candidate.suspect.qualname or item.candidate.suspect.path
            lines.append(f"  {item.candidate.candidate_id}  {printable(where, 60)}  {printable(what, 200)}")
    if record.patch:
        lines += ["", clip(printable_block(record.patch.diff), 100_000).rstrip("\n")]
    return "\n".join(lines)


def _patch_of(record: RunRecord) -> str:
    if record.patch is None:
        raise InputError(f"run {record.run_id} has no patch: it is {record.status}")
    return record.patch.diff


def _report_path(folder: RunFolder, record: RunRecord) -> str:
    if not folder.report_path.exists():
        from pipeline.report import render

        folder.write_text(folder.report_path.name, render(record))
    return str(folder.report_path)
