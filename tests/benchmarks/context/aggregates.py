"""Questions about all of a repository, with exact truth: `python -m tests.benchmarks.context.aggregates`.

The truth is counted in the syntax trees. Prints for each tier how many of its answers are exactly right.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from pipeline.ask.reader import Book, Choice, Desk, read
from pipeline.ask.source import Source
from pipeline.bench.recipe import Origin
from pipeline.bench.sdist import Index
from pipeline.bench.sources import Library
from pipeline.cli.compose import composed_generator, sandbox_edges
from pipeline.config import Settings
from pipeline.context.lexical import LexicalIndex
from pipeline.context.reading import Answer, Ending, Spend
from pipeline.context.reading_trace import Trace
from pipeline.context.tree.cache import PartCache
from pipeline.context.tree.index import index
from pipeline.context.units import units
from pipeline.exceptions import LoopwrightError
from pipeline.ledger import LedgerGenerator
from pipeline.snapshot import Snapshot
from pipeline.stats import proportion
from pipeline.telemetry import discard
from tests.benchmarks.context.cases import CASES, load_cases

Function = ast.FunctionDef | ast.AsyncFunctionDef
Truth = Callable[[Sequence[ast.Module]], set[str]]
PROJECTS = ("inflection", "xmltodict", "jsonpointer", "isodate")  # of 622 to 1,700 lines
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A question, and how its answer is counted."""

    name: str
    question: str
    truth: Truth


@dataclass(frozen=True, slots=True)
class Answered:
    """What a tier said."""

    project: str
    name: str
    tier: str
    answer: str
    truth: str
    is_right: bool
    ending: str
    num_calls: int
    num_tokens: int
    seconds: float


def _all(modules: Sequence[ast.Module], *kinds: type) -> Iterator[ast.AST]:
    return (node for module in modules for node in ast.walk(module) if isinstance(node, kinds))


def _functions(modules: Sequence[ast.Module]) -> list[Function]:
    return list(_all(modules, ast.FunctionDef, ast.AsyncFunctionDef))  # type: ignore[arg-type]


def _num_functions(modules: Sequence[ast.Module]) -> set[str]:
    return {str(len(_functions(modules)))}


def _num_value_errors(modules: Sequence[ast.Module]) -> set[str]:
    raised = (ast.unparse(node) for node in _all(modules, ast.Raise))
    return {str(sum(text.startswith("raise ValueError") for text in raised))}


def _longest(modules: Sequence[ast.Module]) -> set[str]:
    return {max(_functions(modules), key=lambda node: (node.end_lineno or 0) - node.lineno).name}


def _generators(modules: Sequence[ast.Module]) -> set[str]:
    return {
        f.name for f in _functions(modules) if any(isinstance(n, ast.Yield | ast.YieldFrom) for n in _own(f))
    }


def _own(function: Function) -> Iterator[ast.AST]:
    """Yield the nodes of a function without those of functions in it."""
    left: list[ast.AST] = list(function.body)
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            left += ast.iter_child_nodes(node)


def _classes(modules: Sequence[ast.Module]) -> set[str]:
    return {node.name for node in _all(modules, ast.ClassDef)}  # type: ignore[attr-defined]


_IN = "in all Python files of the input together"
_NUMBER, _NAMES = "Answer with the number alone.", "Answer with their bare names alone, separated by commas."
AGGREGATES = (
    Aggregate("functions", f"How many functions and methods are defined {_IN}? {_NUMBER}", _num_functions),
    Aggregate(
        "raises", f"How many `raise ValueError` statements are there {_IN}? {_NUMBER}", _num_value_errors
    ),
    Aggregate(
        "longest", "Which function or method has the most lines? Answer with its bare name alone.", _longest
    ),
    Aggregate(
        "generators", f"Which functions and methods {_IN} have a `yield` of their own? {_NAMES}", _generators
    ),
    Aggregate("classes", f"Which classes are defined {_IN}? {_NAMES}", _classes),
)


def is_right(answer: str, truth: set[str]) -> bool:
    """Say whether an answer has these words and no other; for none at all it must say so."""
    said = set(_WORD.findall(answer))
    return said == truth if truth else bool(said) and {one.lower() for one in said} <= {"none", "no"}


def book_of(source: Snapshot, cache: PartCache) -> tuple[Book, list[ast.Module]]:
    """Return a repository's Python code without its tests, and the syntax trees of the same files."""
    kept = {p: source.read_bytes(p) for p in source.python_paths if "test" not in p and p != "setup.py"}
    snapshot = Snapshot(Path("/nonexistent"), "", changed=kept)
    tree = index(snapshot, cache=cache)
    found = tuple(units(tree, snapshot))
    modules = [ast.parse(kept[path]) for path in sorted(tree.files)]
    return Book(Source(snapshot, frozenset()), tree, found, LexicalIndex(found)), modules


async def answers(
    origins: Sequence[Origin], tiers: Sequence[Choice], library: Library, work: Path, desk: Desk
) -> AsyncIterator[Answered]:
    """Yield what each tier says to each question as it ends, a tier's questions on a repository at once."""
    for origin in origins:
        book, modules = book_of(library.tree(origin), PartCache(work / "parts.sqlite"))
        for tier in tiers:
            asked = [
                _answered(origin.project, tier, one, book, one.truth(modules), work, desk)
                for one in AGGREGATES
            ]
            for ended in asyncio.as_completed(asked):
                yield await ended


async def _answered(
    project: str, tier: Choice, one: Aggregate, book: Book, truth: set[str], work: Path, desk: Desk
) -> Answered:
    folder = work / "readings" / project / tier / one.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    its = replace(desk, folder=folder, trace=Trace(folder / "trace.jsonl"))
    try:
        found = await read(one.question, book, tier, its)
    except LoopwrightError as exc:
        found = Answer(text="", tier="direct", spend=Spend(), ending=Ending.GAVE_UP, warnings=(str(exc),))
    return Answered(
        project=project,
        name=one.name,
        tier=tier,
        answer=found.text,
        truth=" ".join(sorted(truth)),
        is_right=is_right(found.text, truth),
        ending=found.ending,
        num_calls=found.spend.num_calls,
        num_tokens=found.spend.num_prompt_tokens + found.spend.num_completion_tokens,
        seconds=found.spend.seconds,
    )


def table(found: Sequence[Answered]) -> str:
    """Return how many answers of each tier are right, and what they cost."""
    lines = ["| tier | right | share % | tokens a question | calls |", "|---|---|---|---|---|"]
    for tier in dict.fromkeys(one.tier for one in found):
        mine = [one for one in found if one.tier == tier]
        num_right = sum(one.is_right for one in mine)
        tokens, calls = (
            sum(x) / len(mine) for x in zip(*((o.num_tokens, o.num_calls) for o in mine), strict=True)
        )
        share = proportion(num_right, len(mine)).shown(100)
        lines.append(f"| {tier} | {num_right} of {len(mine)} | {share} | {tokens:.0f} | {calls:.1f} |")
    return "\n".join(lines)


async def _run(options: argparse.Namespace) -> list[Answered]:
    work = options.work
    library = Library(folder=work, sdists=work / "sdists", clone_cache=work / "clones", index=Index())
    origins = {case.source.project: case.source for case in load_cases(CASES)}
    reading = {"wall_seconds": options.wall_seconds}
    settings = Settings.model_validate({"model": options.model, "reading": reading})
    sandbox, _ = await sandbox_edges(settings, discard)
    found = []
    try:
        async with composed_generator(settings, discard) as engine:
            desk = Desk(
                folder=work,
                scores=work / "scores.sqlite",
                settings=settings,
                trace=Trace(),
                emit=discard,
                generator=LedgerGenerator(engine, work / "ledger"),
                sandbox=sandbox,
            )
            chosen = [origins[name] for name in options.projects]
            async for one in answers(chosen, options.tiers, library, work, desk):
                found.append(one)
                told = (
                    f"{one.project} {one.tier} {one.name}: {one.is_right}, {one.ending}, {one.seconds:.0f} s"
                )
                print(told, file=sys.stderr, flush=True)
    finally:
        await sandbox.close()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Ask all tiers, print the table, and write the answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="its name or folder, as in `loopwright ask`")
    parser.add_argument("--projects", nargs="+", default=list(PROJECTS))
    parser.add_argument(
        "--tiers", nargs="+", choices=get_args(Choice), default=["lexical", "fold", "recursive"]
    )
    parser.add_argument("--wall-seconds", type=float, default=240.0, help="of an answer at most")
    parser.add_argument(
        "--work", type=Path, required=True, help="source archives, finished completions, traces"
    )
    parser.add_argument("--out", type=Path, required=True, help="the answers, as JSON lines")
    options = parser.parse_args(argv)
    found = asyncio.run(_run(options))
    options.out.write_text("".join(f"{json.dumps(asdict(one))}\n" for one in found), "utf-8")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
