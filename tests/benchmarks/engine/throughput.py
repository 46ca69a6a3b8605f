"""Tokens per second of the local engine by batch and depth: `python -m tests.benchmarks.engine.throughput`.

Every prompt is in the prefix cache before the clock starts, so what is timed is decoding. The ratios in one
run's table say something; the absolute numbers belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

from pipeline.cli.compose import cluster_settings
from pipeline.config import load_settings
from pipeline.core import Message, Prompt, Sampling
from workers.cluster import connect_or_start
from workers.generator import RayGenerator

_CODE = "def f(x):\n" + "\n".join(f"    y{i} = x + {i}" for i in range(40)) + "\n    return x\n"
_MIB = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Print a Markdown table."""
    options = _options(argv)
    settings = load_settings(None, {"model": options.model, "model_dtype": options.dtype})
    memory = _PeakMemory()
    started = time.monotonic()
    with connect_or_start(cluster_settings(settings), lambda line: print(line, file=sys.stderr)) as generator:
        asyncio.run(generator.info())
        print(f"{options.model} {options.dtype}: up after {time.monotonic() - started:.0f} s\n")
        asyncio.run(_print_table(generator, options))
    print(f"\nlargest process: {memory.peak_bytes / _MIB:.0f} MiB")
    return 0


async def _print_table(generator: RayGenerator, options: argparse.Namespace) -> None:
    print(f"| depth | {' | '.join(f'batch {batch}' for batch in options.batches)} |")
    print(f"|{'---|' * (len(options.batches) + 1)}")
    for depth in options.depths:
        rates = [await _rate(generator, depth, batch, options.tokens) for batch in options.batches]
        print(f"| {depth} | {' | '.join(f'{rate:.1f}' for rate in rates)} |", flush=True)


async def _rate(generator: RayGenerator, depth: int, batch: int, max_tokens: int) -> float:
    """Return the completion tokens per second of one batch."""
    prompts = [
        Prompt((Message("user", f"{i}: explain this code at length:\n{_CODE}"),)) for i in range(batch)
    ]
    await generator.generate(prompts, Sampling(max_tokens=1, recurrence_depth=depth))
    started = time.monotonic()
    sampling = Sampling(max_tokens=max_tokens, temperature=0.8, recurrence_depth=depth)
    answers = await generator.generate(prompts, sampling)
    seconds = time.monotonic() - started
    return sum(c.num_completion_tokens for row in answers for c in row) / seconds


class _PeakMemory:
    """Samples the resident size of the largest process of this machine, from its making on."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
            time.sleep(2.0)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--depths", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=96, help="of each sample")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
