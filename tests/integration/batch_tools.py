"""What the tests of `loopwright batch` share: repositories, a process to be killed, its left-overs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import psutil

from pipeline.batch.outcome import Row
from tests.unit.planner import FILES, MODULE, SOURCE, make_repository

LOOPWRIGHT = [sys.executable, "-c", "from pipeline.cli import main; main()"]


def make_tasks(folder: Path, num_tasks: int) -> Path:
    """Make small repositories that differ, and a task file over them; return its path."""
    lines = []
    for number in range(num_tasks):
        name = f"calc{number}"
        source = SOURCE.replace("return x * 2", f"return x * 2 + {number} - {number}")
        make_repository(folder / name, {**FILES, MODULE: source})
        line = {"instance_id": name, "repo": f"./{name}", "problem_statement": f"add is wrong in {name}"}
        lines.append(json.dumps(line))
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command in a session of its own."""
    return subprocess.Popen(
        [*LOOPWRIGHT, "batch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rows_of(out: Path) -> dict[str, Row]:
    """Return the rows of a batch by instance; none where it has none yet."""
    try:
        lines = (out / "results.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return {}
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(Row.model_validate_json(line))
    return {row.instance_id: row for row in rows}


def results_of(out: Path) -> dict[str, dict]:
    """Return what of the rows must be the same however often the batch was killed."""
    fields = {"outcome", "reason", "num_tokens", "num_candidates", "num_rounds", "solved_at", "rank"}
    fields |= {"recurrence_depth", "patch_sha256", "num_changed_lines", "suspects"}
    return {name: row.model_dump(include=fields) for name, row in rows_of(out).items()}


def ledger_of(out: Path) -> dict[Path, tuple[int, int]]:
    """Return every finished sandbox run and completion, by what a second payment for it would change."""
    found = {}
    for path in out.glob("instances/*/ledger/*.json"):
        with contextlib.suppress(FileNotFoundError):
            about = path.stat()
            found[path] = (about.st_ino, about.st_mtime_ns)
    return found


def processes_of(home: Path, *words: str) -> list[psutil.Process]:
    """Return the processes that were started with this home, with one of the words in their command."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_ours = process.environ().get("LOOPWRIGHT_HOME") == str(home)
            is_meant = not words or any(word in " ".join(process.cmdline()) for word in words)
            if is_ours and is_meant and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
