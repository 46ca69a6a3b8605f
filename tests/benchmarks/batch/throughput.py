"""Tasks per hour and engine utilisation of a batch against the same tasks one after another.

    python -m tests.benchmarks.batch.throughput --out DIR [--tasks FILE | --num-tiny N] [--workers N]

After a pass that prepares the targets' environments come two that are measured: one with `--workers 1`, one
with as many as are asked for. Each has a warm engine of its own, so that none finds the other's prompts in
the prefix cache; starting it is not counted. Prints a table; DIR/throughput.json holds the numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.batch.tasks import (
    add_task_options,
    batch_arguments,
    loopwright,
    parsed,
    task_file,
    warm_engine,
)
from tests.integration.batch_tools import results_of

_COUNTER_SECONDS = 5.0  # the engine's counters are written down every two


def main(argv: Sequence[str] | None = None) -> int:
    """Run the passes and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".loopwright/batch-throughput"))
    parser.add_argument("--workers", type=int, help="tasks at once; else the command's own default")
    add_task_options(parser)
    options = parsed(parser, argv)
    tasks = task_file(options)
    several = ["--workers", str(options.workers)] if options.workers else []
    prepare = batch_arguments(options, tasks, _fresh(options.out / "prepare"), "--candidates", "1")
    loopwright("batch", *prepare)
    passes = {
        "one after another": _measured(options, tasks, options.out / "one", "--workers", "1"),
        "batch": _measured(options, tasks, options.out / "batch", *several),
    }
    differing = _differing(options.out / "one", options.out / "batch")
    numbers = {"passes": passes, "differing": differing, "options": vars(options)}
    (options.out / "throughput.json").write_text(json.dumps(numbers, indent=1, default=str), "utf-8")
    print(table(passes))
    print(f"\n{len(differing)} instances ended differently: {', '.join(differing) or 'none'}")
    return 0


def table(passes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the passes as a Markdown table, with the ratio of the last to the first."""
    first, *_, last = passes.values()
    rows = {
        "wall, s": "seconds",
        "tasks per hour": "tasks_per_hour",
        "solved": "num_solved",
        "tokens": "num_tokens",
        "tokens/s over the wall": "tokens_per_second",
        "engine at work": "utilisation",
        "sandbox seconds": "sandbox_seconds",
    }
    lines = [f"| | {' | '.join(passes)} | ratio |", "|---|" + "---|" * (len(passes) + 1)]
    for title, key in rows.items():
        cells = [f"{each[key]:.2f}" for each in passes.values()]
        ratio = f"{last[key] / first[key]:.2f}" if first[key] else "-"
        lines.append(f"| {title} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def _measured(options: argparse.Namespace, tasks: Path, out: Path, *more: str) -> dict[str, Any]:
    arguments = batch_arguments(options, tasks, _fresh(out), *more, "--json")
    print(f"pass: {out.name}", file=sys.stderr, flush=True)
    with warm_engine(options):
        before, started = _counters(), time.monotonic()
        summary = json.loads(loopwright("batch", *arguments))
        seconds = time.monotonic() - started
        after = _counters()
    num_ended = sum(summary[f"num_{name}"] for name in ("solved", "unsolved", "invalid", "infra"))
    num_tokens = after["num_completion_tokens"] - before["num_completion_tokens"]
    return {
        **{f"num_{name}": summary[f"num_{name}"] for name in ("solved", "unsolved", "invalid", "infra")},
        "seconds": seconds,
        "tasks_per_hour": 3600 * num_ended / seconds,
        "num_tokens": num_tokens,
        "tokens_per_second": num_tokens / seconds,
        "utilisation": (after["running_seconds"] - before["running_seconds"]) / seconds,
        "sandbox_seconds": summary["sandbox_seconds"],
    }


def _counters() -> dict[str, float]:
    """Return the engine's counters, read after everything that was asked of it has ended."""
    asked_at = time.time()
    while True:
        status = json.loads(loopwright("status", "--json"))
        if status["seen_at"] > asked_at:
            return status["counters"]
        time.sleep(_COUNTER_SECONDS / 10)


def _differing(one: Path, other: Path) -> list[str]:
    first, second = results_of(one), results_of(other)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
