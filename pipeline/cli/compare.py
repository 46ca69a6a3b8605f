"""`loopwright compare`: two batches of the same tasks, in pairs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.text import printable

if TYPE_CHECKING:
    from pipeline.compare import Batch, Comparison, Difference

_MAX_LISTED = 50


def compare(
    first: Annotated[Path, typer.Argument(help="The folder of a batch.")],
    second: Annotated[Path, typer.Argument(help="The folder of another batch of the same tasks.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare two batches on the tasks that both judged: solved, tokens, time, with 95 % intervals."""
    from pipeline.compare import compare as compared
    from pipeline.compare import read_batch
    from pipeline.stats import json_ready

    batches = read_batch(first), read_batch(second)
    found = compared(*batches, seed=seed)
    for warning in found.warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if as_json:
        typer.echo(json.dumps(json_ready(asdict(found)), indent=1))
    else:
        typer.echo("\n".join(_lines(found, *batches)))


def _lines(found: Comparison, first: Batch, second: Batch) -> Iterator[str]:
    from pipeline.compare import COSTS

    yield f"A  {printable(str(first.folder))}"
    yield f"B  {printable(str(second.folder))}"
    sizes = f"{len(first.results)} in A and {len(second.results)} in B"
    yield f"{found.num_shared} tasks judged by both, of {sizes}"
    for name, excluded in (("A", found.excluded_first), ("B", found.excluded_second)):
        if excluded:
            counts = ", ".join(f"{num} {outcome}" for outcome, num in sorted(excluded.items()))
            yield f"left out: {counts} in {name}"
    yield ""
    yield f"{'':<26}{'A':>22}{'B':>22}{'B - A':>26}"
    yield _row("solved, %", found.solved, 100)
    for name, difference in found.per_task.items():
        yield _row(f"{COSTS[name]} per task", difference, 1)
    for name, (a, b) in found.per_solved.items():
        yield f"{COSTS[name] + ' per solved':<26}{a.shown():>22}{b.shown():>22}"
    yield ""
    yield (
        f"both {found.num_both}, A alone {len(found.lost)}, B alone {len(found.gained)}, "
        f"neither {found.num_neither}; McNemar's exact test: p = {found.p_value:.3g}"
    )
    yield from _listed("solved by B alone", found.gained)
    yield from _listed("solved by A alone", found.lost)
    yield from _listed("only in A", found.only_first)
    yield from _listed("only in B", found.only_second)


def _row(title: str, difference: Difference, scale: float) -> str:
    first, second = difference.first.shown(scale), difference.second.shown(scale)
    return f"{title:<26}{first:>22}{second:>22}{difference.difference.shown(scale, '+'):>26}"


def _listed(title: str, names: tuple[str, ...]) -> Iterator[str]:
    if names:
        yield ""
        yield f"{title} ({len(names)}):"
        yield from (f"  {printable(name)}" for name in names[:_MAX_LISTED])
        if len(names) > _MAX_LISTED:
            yield f"  and {len(names) - _MAX_LISTED} more; --json lists all"
