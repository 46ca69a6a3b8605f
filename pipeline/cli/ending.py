"""How a run ended: the report page, the words on stderr, the object for --json, and what to do next."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from pipeline.cli.errors import ExitCode, describe, exit_code_of, report_error
from pipeline.exceptions import InputError
from pipeline.report.figures import candidates_of, limit_uses, wall_seconds
from pipeline.runs import CandidateRecord, RunFolder, RunRecord, RunStatus
from pipeline.text import count, duration, printable

_HOW_TO_CONFIRM = "which was drafted from the issue: read whether it says what the issue means"
_CODES: dict[RunStatus, ExitCode] = {
    "solved": ExitCode.SOLVED,
    "unsolved": ExitCode.UNSOLVED,
    "nothing_to_repair": ExitCode.NOTHING_TO_REPAIR,
    "failed": ExitCode.ENVIRONMENT,
    "interrupted": ExitCode.INTERRUPTED,
    "running": ExitCode.INTERNAL,  # it says that it goes on, and it does not
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A run that is over, for now or for good."""

    folder: RunFolder
    record: RunRecord
    error: BaseException | None  # what stopped it, or kept the patch from being applied
    report: Path | None
    applied: bool
    with_test: bool = False  # the diff brings the test that was drafted from the issue

    @property
    def diff(self) -> str:
        """What `git apply` takes, as it was wished for; "" without a patch."""
        return diff_of(self.record, with_test=self.with_test)

    @property
    def exit_code(self) -> ExitCode:
        """What the process ends with."""
        return exit_code_of(self.error) if self.error else _CODES[self.record.status]

    @property
    def winner(self) -> CandidateRecord | None:
        """The draft that became the patch."""
        chosen = self.record.patch.candidate_id if self.record.patch else None
        return next((c for c in candidates_of(self.record) if c.candidate.candidate_id == chosen), None)


def diff_of(record: RunRecord, *, with_test: bool) -> str:
    """Return the patch of a run, with the drafted test where that is wished and there is one."""
    if record.patch is None:
        return ""
    test = record.reproduction.diff if with_test and record.reproduction else ""
    return record.patch.diff + test


def write_report(folder: RunFolder, record: RunRecord) -> Path | None:
    """Write the report page and return its path, or None where that fails, which is told."""
    from pipeline.report import render

    try:
        return folder.write_text(folder.report_path.name, render(record))
    except Exception as exc:  # the run's result matters more than its page
        print(f"warning: no report: {describe(exc)[0]}", file=sys.stderr)
        return None


def apply_to_working_tree(folder: RunFolder, record: RunRecord, *, with_test: bool = False) -> None:
    """Apply the run's patch to the repository that it was made for.

    Raises:
        InputError: a touched file is not what the run saw.
        EnvironmentBrokenError: it cannot be written.
    """
    from pipeline.workspace import apply_patch, load_snapshot

    assert record.patch is not None, "only a solved run is applied"
    seen = load_snapshot(folder.path / "snapshot")
    if seen is None:
        raise InputError("the run's copy of the tree is gone", hint=_patch_command(folder))
    apply_patch(Path(record.task.repo), diff_of(record, with_test=with_test), seen=seen)


def tell(ending: Ending) -> None:
    """Say on stderr how it ended, what it cost, where the report lies, and what to do next."""
    record = ending.record
    status, reason = record.status.replace("_", " "), printable(record.reason)
    if ending.error is not None and ending.exit_code is not ExitCode.INTERRUPTED:
        report_error(ending.error, ending.folder.path)
        reason = "" if reason == describe(ending.error)[0] else reason  # it has just been said
    lines = [f"{status}: {reason}".removesuffix(": "), _cost(record)]
    if ending.report:
        lines.append(f"report: {ending.report}")
    if record.reproduction and record.is_advisory:
        lines.append(f"advisory: it rests on {printable(record.reproduction.test_id)}, {_HOW_TO_CONFIRM}")
        lines.append(f"the test: {ending.folder.path / 'reproduction.diff'}")
    if ending.applied:
        lines.append("applied to the working tree")
    lines += [f"next: {step}" for step in _next_steps(ending)]
    print("\n".join(lines), file=sys.stderr)


def as_object(ending: Ending) -> dict[str, Any]:
    """Return what --json prints."""
    record, winner = ending.record, ending.winner
    return {
        "run_id": ending.folder.run_id,
        "status": record.status,
        "exit_code": int(ending.exit_code),
        "reason": record.reason,
        **(_problem(ending.error) if ending.error else {}),
        "task_id": record.task.task_id,
        "repo": record.task.repo,
        "base_commit": record.base_commit,
        "model": record.model,
        "advisory": record.is_advisory,
        "reproduction": _reproduction(record),
        "patch": ending.diff if record.patch else None,
        "paths": list(record.patch.paths) if record.patch else [],
        "applied": ending.applied,
        "verdict": to_jsonable_python(winner.verdict) if winner else None,
        "recurrence_depth": winner.candidate.recurrence_depth if winner else None,
        "seconds": round(wall_seconds(record), 2),
        "num_rounds": len(record.rounds),
        "num_candidates": len(candidates_of(record)),
        "num_tokens": record.num_completion_tokens,
        "num_sandbox_runs": record.num_sandbox_runs,
        "folder": str(ending.folder.path),
        "report": str(ending.report) if ending.report else None,
        "next": _next_steps(ending),
    }


def _reproduction(record: RunRecord) -> dict[str, Any] | None:
    """Return what became of drafting a test from the issue, or None where that was not tried."""
    found = record.reproduction
    if found is None:
        return None
    return {
        "advisory": True,
        "test": found.test_id or None,
        "diff": found.diff or None,
        "num_drafts": len(found.drafts),
        "reason": found.reason,
    }


def error_object(error: BaseException) -> dict[str, Any]:
    """Return what --json prints where there was no run."""
    return {"status": "failed", "exit_code": int(exit_code_of(error)), **_problem(error)}


def _problem(error: BaseException) -> dict[str, str]:
    message, hint = describe(error)
    return {"error": message, "hint": hint}


def _cost(record: RunRecord) -> str:
    drafts = candidates_of(record)
    depths = sorted({completion.recurrence_depth for completion in record.completions})
    num_drafts = len(drafts) + (len(record.reproduction.drafts) if record.reproduction else 0)
    parts = [duration(wall_seconds(record)), count(len(record.rounds), "round"), count(num_drafts, "draft")]
    if num_drafts:
        parts += [
            count(record.num_completion_tokens, "token"),
            f"depth {', '.join(map(str, depths))}",
            count(record.num_sandbox_runs, "sandbox run"),
        ]
    return ", ".join(parts)


def _next_steps(ending: Ending) -> list[str]:
    run_id, status = ending.folder.run_id, ending.record.status
    if ending.exit_code is ExitCode.INTERRUPTED or (status == "failed" and ending.error):
        return [f"loopwright fix --resume {run_id}"]
    if status == "solved" and ending.applied:
        return ["look it over: git diff"]
    if status == "solved":
        steps = [] if "://" in ending.record.task.repo else [f"loopwright fix --resume {run_id} --apply"]
        return [*steps, _patch_command(ending.folder)]
    if status == "unsolved":
        reached = [
            use.name for use in limit_uses(ending.record) if use.is_reached and use.name != "recurrence depth"
        ]
        first = f"raise what was used up ({', '.join(reached)})" if reached else "read the report"
        return [f"{first}; `--config thorough` or a larger --model search further"]
    return []


def _patch_command(folder: RunFolder) -> str:
    return f"loopwright runs show {folder.run_id} --patch | git apply"
