"""The descent and its ablations with a real model: `python -m tests.benchmarks.context.descent --model NAME`.

What the model says is kept, so that a variant which asks what another one asked costs nothing. Prints recall
and what each variant asked, and writes a row for each case and variant.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args

from pipeline.bench.sdist import Index
from pipeline.bench.sources import Library
from pipeline.cli.compose import composed_generator
from pipeline.config import Settings
from pipeline.context.descent.beam import Options
from pipeline.context.descent.localise import localise_by_descent
from pipeline.context.descent.pieces import Pieces
from pipeline.context.descent.scorer import Calibration, YesNoScorer
from pipeline.context.reading import Findings, Query
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import Purse
from pipeline.context.tree.cache import PartCache
from pipeline.core import Budget
from pipeline.ledger import LedgerGenerator
from pipeline.protocols import Generator
from pipeline.stats import mean
from pipeline.telemetry import discard
from tests.benchmarks.context.cases import CASES, Case, Kind, load_cases
from tests.benchmarks.context.recall import Bed, Row, bed_of, by_words, row_of, table

_NO_LIMIT = 1_000_000  # calls and seconds; the benchmark is to see what a variant costs, not to stop it
_BASELINE = "BM25 + pointers"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to descend."""

    options: Options = field(default_factory=Options)
    calibration: Calibration = "none"
    recurrence_depth: int = 1
    with_prior: bool = True  # what the words say


_FLAT = Options(num_whole=_NO_LIMIT)
VARIANTS: Mapping[str, Variant] = {
    "descent": Variant(),
    "empty": Variant(calibration="empty"),
    "shuffled": Variant(calibration="shuffled"),
    "both": Variant(calibration="both"),
    "chunks": Variant(Options(num_whole=0)),
    "narrow": Variant(Options(num_whole=0, num_bodies=20, num_lexical=6)),
    "no-prior": Variant(with_prior=False),
    "depth-2": Variant(recurrence_depth=2),
    "flat": Variant(_FLAT),
}


async def rows(
    cases: Sequence[Case], names: Sequence[str], library: Library, cache: PartCache, generator: Generator
) -> AsyncIterator[Row]:
    """Yield each case's row by words alone, and one of each variant."""
    for case in cases:
        bed = bed_of(case, library, cache)
        yield row_of(bed, _BASELINE, by_words(bed), 0.0)
        for name in names:
            begun_at = time.monotonic()
            findings = await descended(bed, VARIANTS[name], generator)
            places = [
                f"{span.path}::{span.qualname}" if span.qualname else f"{span.path}:{span.start_line}"
                for span in findings.spans
            ]
            row = row_of(bed, name, places, time.monotonic() - begun_at)
            spend = findings.spend
            yield replace(row, num_calls=spend.num_calls, num_tokens=spend.num_prompt_tokens)


async def descended(bed: Bed, variant: Variant, generator: Generator) -> Findings:
    """Return what a variant finds among the functions of a tree, as `fix` has them judged."""
    functions = [unit for unit in bed.units if unit.node.kind == "function"]
    ranked = [one for one in bed.words.ranked(bed.case.query) if one.unit.node.kind == "function"]
    scorer = YesNoScorer(
        generator,
        Pieces(bed.tree, functions),
        calibration=variant.calibration,
        recurrence_depth=variant.recurrence_depth,
    )
    budget = Budget(num_calls=_NO_LIMIT, num_tokens=100 * _NO_LIMIT, wall_seconds=_NO_LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        purse = Purse.open(Path(folder) / "spending.sqlite", budget, time.time() + _NO_LIMIT)
        return await localise_by_descent(
            Query(text=bed.case.query),
            bed.tree,
            functions,
            ranked if variant.with_prior else [],
            scorer=scorer,
            purse=purse,
            trace=Trace(),
            options=variant.options,
        )


def differences(found: Sequence[Row], k: int = 10) -> str:
    """Return by variant function recall@k less that of the words on the same cases, with a 95 % interval."""
    hits: dict[str, dict[str, float]] = defaultdict(dict)
    for row in found:
        hits[row.way][row.case_id] = float(row.function_rank is not None and row.function_rank <= k)
    lines = [
        "| variant | cases | function @10 less words' | calls | prompt tokens |",
        "|---|---|---|---|---|",
    ]
    for way, by_case in hits.items():
        if way == _BASELINE:
            continue
        delta = mean([hit - hits[_BASELINE][case_id] for case_id, hit in by_case.items()])
        mine = [row for row in found if row.way == way]
        calls, tokens = (
            sum(values) / len(mine) for values in ([r.num_calls for r in mine], [r.num_tokens for r in mine])
        )
        lines.append(f"| {way} | {len(mine)} | {delta.shown(100, '+')} | {calls:.0f} | {tokens:.0f} |")
    return "\n".join(lines)


async def _run(options: argparse.Namespace) -> list[Row]:
    work = options.work
    library = Library(folder=work, sdists=work / "sdists", clone_cache=work / "clones", index=Index())
    cases = chosen(load_cases(options.cases), options)
    found = []
    async with composed_generator(Settings.model_validate({"model": options.model}), discard) as engine:
        generator = LedgerGenerator(engine, work / "ledger")
        async for row in rows(cases, options.variants, library, PartCache(work / "parts.sqlite"), generator):
            found.append(row)
            print(f"{row.case_id} {row.way}: {row.function_rank}", file=sys.stderr, flush=True)
    return found


def chosen(cases: Sequence[Case], options: argparse.Namespace) -> list[Case]:
    """Return the cases of a part and kind, of each project so many, drawn with a seed."""
    wanted = (options.split, set(options.kinds), set(options.projects))
    cases = [case for case in cases if _is_wanted(case, *wanted)]
    random.Random(options.seed).shuffle(cases)
    by_group: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        by_group[case.source.project, case.kind].append(case)
    return [case for those in by_group.values() for case in those[: options.per_project]]


def _is_wanted(case: Case, split: str, kinds: set[str], projects: set[str]) -> bool:
    is_of_project = not projects or case.source.project in projects
    return case.split == split and case.kind in kinds and is_of_project


def main(argv: Sequence[str] | None = None) -> int:
    """Descend for the chosen cases, print the tables, and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="its name or folder, as in `loopwright ask`")
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--split", choices=["dev", "held_out"], default="dev")
    parser.add_argument("--kinds", nargs="+", choices=get_args(Kind), default=["message", "needle"])
    parser.add_argument("--per-project", type=int, default=1, help="cases of each kind")
    parser.add_argument("--projects", nargs="+", default=[], help="of these alone")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["descent"])
    parser.add_argument("--seed", type=int, default=0, help="which cases")
    parser.add_argument("--work", type=Path, required=True, help="source archives, finished completions")
    parser.add_argument("--out", type=Path, required=True, help="the rows, as JSON lines")
    options = parser.parse_args(argv)
    found = asyncio.run(_run(options))
    options.out.write_text("".join(f"{json.dumps(asdict(row))}\n" for row in found), "utf-8")
    print(table(found), differences(found), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
