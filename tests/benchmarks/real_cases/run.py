"""Solve rate on the real cases by recurrence depth: `python -m tests.benchmarks.real_cases.run --out DIR`.

Each case is given to `loopwright fix` as a user would, once per depth, on one warm engine. A line per
finished run goes to DIR/results.jsonl; started again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.bench.sdist import Index
from pipeline.core import Task
from pipeline.runs import RunFolder, RunRecord
from tests.benchmarks.real_cases.build import build_cases
from tests.benchmarks.real_cases.case import load_cases, source_of

Row = dict[str, Any]

_COMMAND = Path(sys.executable).with_name("loopwright")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    options = _options(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    tasks = build_cases(load_cases(only=options.only), options.out / "cases", Index())
    results = options.out / "results.jsonl"
    _write_config(options)
    _loopwright("up", *_model(options))
    try:
        for row in _missing_rows(tasks, options, _rows(results)):
            with results.open("a", encoding="utf-8") as stream:
                print(json.dumps(row), file=stream, flush=True)
            print(f"{row['task_id']} depth {row['depth']}: {row['status']}", file=sys.stderr, flush=True)
    finally:
        _loopwright("down")
    print(table(tasks, _rows(results), options.depths))
    return 0


def table(tasks: Sequence[Task], rows: Sequence[Row], depths: Sequence[int]) -> str:
    """Return the results as a Markdown table, a line a case."""
    by_run = {(row["task_id"], row["depth"]): row for row in rows}
    head = ["case", "function (held out)", "rank", *(f"depth {depth}" for depth in depths)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for task in tasks:
        cells = [by_run.get((task.task_id, depth)) for depth in depths]
        rank = next((cell["rank"] for cell in cells if cell), None)
        function = source_of(task).fixed_functions[0].rpartition("::")[2]
        shown = [task.task_id, f"`{function}`", str(rank or "-"), *(_cell(cell) for cell in cells)]
        lines.append(f"| {' | '.join(shown)} |")
    solved = [sum(by_run.get((t.task_id, d), {}).get("status") == "solved" for t in tasks) for d in depths]
    lines.append(f"| **solved of {len(tasks)}** | | | {' | '.join(f'**{n}**' for n in solved)} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return "not run"
    mark = "**solved**" if row["status"] == "solved" else row["status"]
    return f"{mark}, {row['num_resolved']}/{row['num_candidates']}, {row['seconds']:.0f} s"


def _missing_rows(tasks: Sequence[Task], options: argparse.Namespace, done: Sequence[Row]) -> Iterator[Row]:
    finished = {(row["task_id"], row["depth"]) for row in done}
    for depth in options.depths:
        for task in tasks:
            if (task.task_id, depth) not in finished:
                yield _run(task, depth, options)


def _run(task: Task, depth: int, options: argparse.Namespace) -> Row:
    """Give the case to `fix`: one round, so that the depths are compared on equal numbers of drafts."""
    arguments = [task.repo, "--json", "--issue", task.statement, "--test-command", task.test_command]
    arguments += [argument for test_id in task.fail_to_pass for argument in ("--test", test_id)]
    arguments += ["--depth", str(depth), "--seed", str(options.seed), "--sandbox", options.sandbox]
    arguments += ["--config", str(_config_path(options)), *_model(options)]
    answer = json.loads(_loopwright("fix", *arguments))
    return {
        "task_id": task.task_id,
        "depth": depth,
        "status": answer["status"],
        "seconds": answer["seconds"],
        "num_tokens": answer["num_tokens"],
        "seed": options.seed,
        **_details(task, RunFolder(Path(answer["folder"])).load()),
    }


def _write_config(options: argparse.Namespace) -> None:
    rung = {
        "strategy": options.strategy,
        "num_candidates": options.candidates,
        "num_suspects": options.suspects,
    }
    settings = {"planner": {"ladder": [rung]}, "limits": {"num_rounds": 1}}
    _config_path(options).write_text(yaml.safe_dump(settings), "utf-8")


def _config_path(options: argparse.Namespace) -> Path:
    return options.out / "one-round.yaml"


def _details(task: Task, record: RunRecord) -> Row:
    fixed = set(source_of(task).fixed_functions)
    candidates = [candidate for round_ in record.rounds for candidate in round_.candidates]
    ranks = [i for i, s in enumerate(record.suspects, 1) if f"{s.path}::{s.qualname}" in fixed]
    return {
        "rank": ranks[0] if ranks else None,
        "num_candidates": len(candidates),
        "num_refused": sum(bool(c.candidate.refused) for c in candidates),
        "num_resolved": sum(c.verdict is not None and c.verdict.kind == "resolved" for c in candidates),
    }


def _rows(results: Path) -> list[Row]:
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()]


def _model(options: argparse.Namespace) -> list[str]:
    return ["--model", options.model] if options.model else []


def _loopwright(*arguments: str) -> str:
    """Run the command; its progress goes to our stderr. Any end that is a result is a good one."""
    done = subprocess.run([_COMMAND, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 3, 5):
        raise SystemExit(f"loopwright {arguments[0]} ended with {done.returncode}")
    return done.stdout


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".loopwright/real-cases"))
    parser.add_argument("--only", nargs="*", default=(), metavar="ID")
    parser.add_argument("--depths", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--strategy", choices=["line", "definition"], default="line")
    parser.add_argument("--candidates", type=int, default=48, help="drafts a run")
    parser.add_argument("--suspects", type=int, default=2, help="the drafts are spread over so many")
    parser.add_argument("--sandbox", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
