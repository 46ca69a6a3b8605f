"""How scoring scales with reading workers: `python -m tests.benchmarks.context.workers [--out DIR]`.

Over a Ray on this machine, by 1, 2 and 4 workers: many pieces at once, through judge, purse and memo; and a
whole query, which waits at each level of the tree. Each worker has a stub engine that answers a call of any
size after some seconds, the same ones for the same call. Prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.context.descent.beam import Options
from pipeline.context.descent.judge import Judge
from pipeline.context.descent.pieces import body_of
from pipeline.context.reading_trace import Trace
from tests.integration.reading_tools import QUERY, Desk, Shelf
from workers import ray_runtime
from workers.reading_pool import PoolLimits, RayScorer

_NUM_WORKERS = (1, 2, 4)


async def many_pieces(shelf: Shelf, desk: Desk, limits: PoolLimits, options: argparse.Namespace) -> float:
    """Return pieces per second; the workers are up before the clock starts."""
    pieces = [body_of(unit) for unit in shelf.words.units[: options.pieces]]
    async with desk.pool(shelf, limits, options.seconds) as pool:
        trace = Trace()
        judge = Judge(QUERY, RayScorer(pool, trace), shelf.purse(desk.folder.name), trace, 0)
        begun_at = time.monotonic()
        await judge.judge(pieces)
        taken = time.monotonic() - begun_at
    assert judge.coverage == 1, "something was lost"
    return len(pieces) / taken


async def one_query(shelf: Shelf, desk: Desk, limits: PoolLimits, options: argparse.Namespace) -> float:
    """Return the pieces per second of a descent with the default options."""
    async with desk.pool(shelf, limits, options.seconds) as pool:
        trace, purse = Trace(), shelf.purse(desk.folder.name)
        found = await shelf.read(RayScorer(pool, trace), trace, purse, Options())
    assert found.coverage == 1, "something was lost"
    return sum(event.kind == "score" for event in trace.events) / found.spend.seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where numbers.json goes")
    parser.add_argument("--pieces", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a call of the stub engine, on average")
    options = parser.parse_args(argv)
    work = Path(tempfile.mkdtemp(prefix="reading-"))
    shelf = Shelf(work / "shelf", num_folders=options.pieces // 8 + 1)
    folder = ray_runtime.start_ray(work / "state")
    rates: dict[str, dict[int, float]] = {}
    for measure in (many_pieces, one_query):
        mine = rates.setdefault(measure.__name__, {})
        for number in _NUM_WORKERS:
            load = os.getloadavg()[0]
            desk = Desk(work / f"{measure.__name__}-{number}")
            mine[number] = asyncio.run(measure(shelf, desk, PoolLimits(num_workers=number), options))
            ratio = mine[number] / mine[1]
            print(
                f"| {measure.__name__} | {number} | {mine[number]:.1f} | {ratio:.2f} | {load:.1f} |",
                flush=True,
            )
    ray_runtime.stop_ray(folder)
    shutil.rmtree(work)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "numbers.json").write_text(
            json.dumps({"pieces_per_second": rates, **vars(options)}, default=str)
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
