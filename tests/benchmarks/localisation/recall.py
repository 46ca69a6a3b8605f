"""Where localisation ranks known faults: `python -m tests.benchmarks.localisation.recall --out DIR`.

Takes the injected bugs (their development part, or `--split held_out`) and the real cases. Each goes
through the planner's own prepare, scaffold and localise, in bubblewrap, without a model. It is ranked
twice: by what the failing tests run ("before"), and by Ochiai over all tests as well ("after"). Prints
recall@k, and of bugs of one place the rank of the faulty statement within its function. Finished sandbox
runs are kept in DIR, so that a second call only ranks anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from pipeline.bench.build import build_tasks, read_tasks
from pipeline.bench.recipe import Place, injected
from pipeline.bench.sdist import Index
from pipeline.bench.sources import Library
from pipeline.cli.compose import roots
from pipeline.config import Settings
from pipeline.core import Suspect, Task
from pipeline.draft.lines import statement_spans
from pipeline.exceptions import LoopwrightError
from pipeline.graph.nodes.localise import lines_run, localise, suspects_in
from pipeline.graph.nodes.prepare import prepare
from pipeline.graph.nodes.scaffold import scaffold
from pipeline.graph.run import Dependencies, make_tools
from pipeline.graph.state import Progress
from pipeline.graph.toolbox import Toolbox
from pipeline.runs import RunFolder, RunRecord
from pipeline.telemetry import discard
from pipeline.testing import ScriptedGenerator
from tests.benchmarks.real_cases.build import build_cases
from tests.benchmarks.real_cases.case import load_cases, source_of
from workers.edges import dependencies, sandbox_edges

_INJECTED = Path(__file__).parents[1] / "injected" / "tasks.jsonl"
_RECALL_AT = (1, 2, 3, 5, 10)
_NUM_SUSPECTS = 1000  # ranked: all that have any evidence against them
_WALL_SECONDS = 600.0  # of a sandbox run, so that a busy machine changes nothing
_SETTINGS = Settings.model_validate(
    {"sandbox": {"kind": "bubblewrap"}, "planner": {"num_suspects": _NUM_SUSPECTS}}
)


@dataclass(frozen=True, slots=True)
class Case:
    """A task, and where its fault is."""

    part: str  # "dev", "held_out" or "real"
    task: Task
    functions: tuple[str, ...]  # path::qualname
    place: Place | None = None  # of a bug of one place, the lines of its statement


@dataclass(frozen=True, slots=True)
class Ranked:
    """Where one way to localise put a case's fault, counted from 1; None: nowhere."""

    rank: int | None  # of the last faulty function
    statement: int | None = (
        None  # in its function, the number of statements that are asked for before it, and it
    )
    num_statements: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A case's result."""

    task_id: str
    part: str
    has_spectrum: bool  # the whole suite's coverage could be had
    before: Ranked
    after: Ranked


def injected_cases(split: str, out: Path, sdists: Path | None) -> Iterator[Case]:
    """Yield the injected bugs of a part, their repositories built."""
    tasks = [task for task in read_tasks(_INJECTED) if task.metadata["split"] == split]
    work = out / "work"
    library = Library(
        folder=work, sdists=sdists or work / "sdists", clone_cache=work / "clones", index=Index()
    )
    for task in build_tasks(tasks, out / "injected", library, _say):
        gold = injected(task).gold
        place = gold[0] if len(gold) == 1 else None
        yield Case(split, task, tuple(sorted({place.function for place in gold})), place)


def real_cases(out: Path) -> Iterator[Case]:
    """Yield the real cases, their repositories built."""
    for task in build_cases(load_cases(), out / "real", Index()):
        yield Case("real", task, source_of(task).fixed_functions)


async def ranked(case: Case, deps: Dependencies, out: Path) -> Row:
    """Localise a case's fault in both ways."""
    task = bare(case.task)
    record = RunRecord(
        run_id=task.task_id,
        status="running",
        task=task,
        settings={},
        versions={},
        started_at=datetime.now(UTC),
    )
    tools = make_tools(task, RunFolder(out / "runs" / task.task_id), deps)
    progress = Progress(record=record)
    await prepare(tools, progress)
    await scaffold(tools, progress)
    tools.lay(progress.laid)
    await localise(tools, progress)
    after = _ranked(case, tools, progress, progress.suspects)
    has_spectrum, progress.suspicion = bool(progress.suspicion), {}
    before = _ranked(case, tools, progress, await suspects_in(tools, progress))
    return Row(task.task_id, case.part, has_spectrum, before, after)


def bare(task: Task) -> Task:
    """Return the task as a run gets it: not told where the fault is."""
    sandbox = task.limits.sandbox.model_copy(update={"wall_seconds": _WALL_SECONDS})
    limits = task.limits.model_copy(update={"sandbox": sandbox})
    return task.model_copy(update={"metadata": {}, "limits": limits})


def table(rows: Sequence[Row]) -> str:
    """Return recall@k and the ranks of statements as Markdown, both ways beside each other."""
    parts = sorted({row.part for row in rows})
    lines = [
        "| recall | " + " | ".join(f"{part}, {way}" for part in parts for way in ("before", "after")) + " |"
    ]
    lines.append("|---|" + "---|" * 2 * len(parts))
    ways = [
        [row.before if way == "before" else row.after for row in rows if row.part == part]
        for part in parts
        for way in ("before", "after")
    ]
    for k in _RECALL_AT:
        lines.append(f"| @{k} | " + " | ".join(_recall(way, k) for way in ways) + " |")
    for name, shown in (("first", _first), ("in the first 3", _among_three), ("median rank", _median)):
        lines.append(f"| faulty statement {name} | " + " | ".join(map(shown, ways)) + " |")
    return "\n".join(lines)


def _ranked(case: Case, tools: Toolbox, progress: Progress, suspects: Sequence[Suspect]) -> Ranked:
    names = [f"{suspect.path}::{suspect.qualname}" for suspect in suspects]
    missed = any(function not in names for function in case.functions)
    rank = None if missed else max(names.index(function) for function in case.functions) + 1
    if case.place is None or case.place.function not in names:
        return Ranked(rank)
    suspect = suspects[names.index(case.place.function)]
    source = tools.tree(progress).read_bytes(suspect.path).decode("utf-8", "replace").split("\n")
    definition = "\n".join(source[suspect.start_line - 1 : suspect.end_line])
    spans = statement_spans(definition, ran=lines_run(progress, suspect))
    first, last = (line - suspect.start_line + 1 for line in case.place.lines)
    hits = [i for i, span in enumerate(spans, 1) if span[0] <= last and first <= span[1]]
    return Ranked(rank, hits[0] if hits else None, len(spans))


def _recall(way: Sequence[Ranked], k: int) -> str:
    num = sum(one.rank is not None and one.rank <= k for one in way)
    return f"{num}/{len(way)} ({num / len(way):.0%})"


def _first(way: Sequence[Ranked]) -> str:
    return _share(way, 1)


def _among_three(way: Sequence[Ranked]) -> str:
    return _share(way, 3)


def _share(way: Sequence[Ranked], k: int) -> str:
    told = [one for one in way if one.num_statements]
    return (
        f"{sum(one.statement is not None and one.statement <= k for one in told)}/{len(told)}"
        if told
        else "-"
    )


def _median(way: Sequence[Ranked]) -> str:
    told = [one for one in way if one.statement is not None]
    if not told:
        return "-"
    return f"{median(one.statement or 0 for one in told):g} of {median(one.num_statements for one in told):g}"


async def _rows(cases: Sequence[Case], out: Path, num_parallel: int) -> list[Row]:
    places = roots()
    edges = await sandbox_edges(_SETTINGS, places, discard)
    deps = await dependencies(_SETTINGS, places, ScriptedGenerator([""]), edges, discard)
    slots = asyncio.Semaphore(num_parallel)

    async def one(case: Case) -> Row | None:
        async with slots:
            try:
                row = await ranked(case, deps, out)
            except LoopwrightError as exc:
                _say(f"{case.task.task_id} is left out: {exc}")
                return None
            _say(f"{row.task_id}: {row.before.rank} -> {row.after.rank}")
            return row

    return [row for row in await asyncio.gather(*map(one, cases)) if row]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Rank all cases, print the table, and write DIR/rows.jsonl."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".loopwright/localisation"))
    parser.add_argument("--split", choices=["dev", "held_out"], default="dev")
    parser.add_argument("--without-real", action="store_true", help="the injected bugs alone")
    parser.add_argument("--sdists", type=Path, help="source archives that are there already")
    parser.add_argument("--parallel", type=int, default=2, help="tasks at once")
    options = parser.parse_args(argv)
    cases = list(injected_cases(options.split, options.out, options.sdists))
    if not options.without_real:
        cases += real_cases(options.out)
    rows = asyncio.run(_rows(cases, options.out, options.parallel))
    (options.out / "rows.jsonl").write_text("".join(f"{json.dumps(asdict(row))}\n" for row in rows), "utf-8")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
