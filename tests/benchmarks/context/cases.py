"""Makes the cases of the localisation benchmark: `python -m tests.benchmarks.context.cases TASKS…`.

A case is a tree (its recipe), a query and the functions that it is about. Of each task of `bench make` two
come about: what the failing tests print with the traceback, and only the messages. Needles, functions whose
description has none of their words, are hidden in the same trees without a bug.
"""

from __future__ import annotations

import argparse
import asyncio
import keyword
import random
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from pipeline.bench.build import build_tasks, read_records, read_tasks
from pipeline.bench.recipe import Origin, Split, injected
from pipeline.bench.sdist import Index
from pipeline.bench.sources import Library
from pipeline.cli.compose import roots
from pipeline.config import Settings
from pipeline.context.failures import is_test_path
from pipeline.context.symbols import definitions, words
from pipeline.core import Task, TestCase
from pipeline.exceptions import LoopwrightError
from pipeline.graph.nodes.prepare import prepare
from pipeline.graph.run import Dependencies, make_tools
from pipeline.graph.state import Progress
from pipeline.runs import RunFolder, RunRecord, write_atomically
from pipeline.snapshot import Snapshot
from pipeline.telemetry import discard
from pipeline.testing import ScriptedGenerator
from tests.benchmarks.localisation.recall import bare
from workers.edges import dependencies, sandbox_edges

Kind = Literal["traceback", "message", "needle"]
NEEDLES = Path(__file__).with_name("needles.yaml")
CASES = Path(__file__).with_name("cases.jsonl")
_SETTINGS = Settings.model_validate({"sandbox": {"kind": "bubblewrap"}})
_MAX_FAILURES, _MAX_DETAILS_CHARS = 3, 3000  # of a query
_MIN_FUNCTIONS = 3  # of a module that a needle is hidden in
_KEYWORDS = frozenset(keyword.kwlist)


class Case(BaseModel):
    """A query with its answer. What leads to the tree stands here; the tree itself is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case_id: str
    kind: Kind
    split: Split
    source: Origin
    diff: str = ""  # from the source to the tree, of an injected bug
    added: dict[str, str] = {}  # path -> text at its end, of a needle
    query: str
    gold: tuple[str, ...]  # path::qualname


class Needle(BaseModel):
    """A function to hide, and what one would ask for."""

    split: Split
    question: str
    code: str

    @property
    def name(self) -> str:
        """What the function is called."""
        return self.code.partition("(")[0].removeprefix("def ")


def load_cases(path: Path = CASES) -> list[Case]:
    """Return the cases of a file."""
    return list(read_records(path, Case, id_field="case_id", file="case file", noun="case").values())


def load_needles() -> list[Needle]:
    """Return the needles.

    Raises:
        ValueError: a question has a word of its function.
    """
    needles = [Needle.model_validate(one) for one in yaml.safe_load(NEEDLES.read_text("utf-8"))]
    for needle in needles:
        if shared := set(words(needle.question)) & (set(words(needle.code)) - _KEYWORDS):
            raise ValueError(f"{needle.name}: question and code share {', '.join(sorted(shared))}")
    return needles


def fault_cases(task: Task, failures: Sequence[TestCase]) -> Iterator[Case]:
    """Yield a task's two cases."""
    fault = injected(task)
    some = sorted(failures, key=lambda case: case.test_id)[:_MAX_FAILURES]
    texts: dict[Kind, str] = {
        "traceback": "\n\n".join(
            f"{case.test_id} fails: {case.message}\n{case.details[-_MAX_DETAILS_CHARS:]}" for case in some
        ),
        "message": "\n".join(f"{case.test_id} fails: {case.message}" for case in some),
    }
    for kind, text in texts.items():
        yield Case(
            case_id=f"{task.task_id}-{kind}",
            kind=kind,
            split=fault.split,
            source=fault.recipe.source,
            diff=fault.recipe.diff,
            query=text.replace(sys.base_prefix, "/usr"),  # where this machine has its Python is nobody's
            gold=tuple(sorted({place.function for place in fault.gold})),
        )


def needle_cases(origins: Sequence[tuple[Split, Origin]], library: Library, seed: int) -> Iterator[Case]:
    """Yield each needle hidden in a repository of its split, in turn."""
    for split in ("dev", "held_out"):
        sources = [origin for its, origin in origins if its == split]
        needles = [needle for needle in load_needles() if needle.split == split]
        for number, needle in enumerate(needles):
            origin = sources[number % len(sources)]
            path = _module(library.tree(origin), random.Random(f"{seed} {needle.name}"))
            yield Case(
                case_id=f"{origin.project}-needle-{needle.name.removeprefix('_gf_')}",
                kind="needle",
                split=needle.split,
                source=origin,
                added={path: f"\n\n{needle.code}"},
                query=needle.question,
                gold=(f"{path}::{needle.name}",),
            )


def _module(snapshot: Snapshot, choice: random.Random) -> str:
    paths = [path for path in snapshot.python_paths if not is_test_path(path)]
    choice.shuffle(paths)
    return next(path for path in paths if _num_functions(snapshot, path) >= _MIN_FUNCTIONS)


def _num_functions(snapshot: Snapshot, path: str) -> int:
    return sum(found.kind == "function" for found in definitions(path, snapshot.read_bytes(path)))


async def _failures(task: Task, deps: Dependencies, out: Path) -> Sequence[TestCase]:
    record = RunRecord(
        run_id=task.task_id,
        status="running",
        task=bare(task),
        settings={},
        versions={},
        started_at=datetime.now(UTC),
    )
    progress = Progress(record=record)
    await prepare(make_tools(record.task, RunFolder(out / "runs" / task.task_id), deps), progress)
    assert progress.record.baseline is not None
    return progress.record.baseline.failures


async def _fault_cases(tasks: Sequence[Task], out: Path) -> list[Case]:
    places = roots()
    edges = await sandbox_edges(_SETTINGS, places, discard)
    deps = await dependencies(_SETTINGS, places, ScriptedGenerator([""]), edges, discard)
    cases: list[Case] = []
    for task in tasks:
        try:
            cases += fault_cases(task, await _failures(task, deps, out))
            _say(task.task_id)
        except LoopwrightError as exc:
            _say(f"{task.task_id} is left out: {exc}")
    await edges[0].close()
    return cases


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the tasks, run their tests once, and write the cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tasks", type=Path, nargs="+", help="task files of `loopwright bench make`")
    parser.add_argument("--out", type=Path, default=CASES)
    parser.add_argument("--work", type=Path, required=True, help="trees, and finished test runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    work = options.work
    library = Library(folder=work, sdists=work / "sdists", clone_cache=work / "clones", index=Index())
    tasks = [task for path in options.tasks for task in read_tasks(path)]
    built = build_tasks(tasks, work / "built", library, _say)
    origins = {injected(task).recipe.source: injected(task).split for task in tasks}
    cases = asyncio.run(_fault_cases(built, work))
    cases += needle_cases([(split, origin) for origin, split in origins.items()], library, options.seed)
    lines = (case.model_dump_json() for case in cases)
    write_atomically(options.out, "".join(f"{line}\n" for line in lines).encode())
    _say(f"{len(cases)} cases in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
