"""What depth costs under vLLM: `make bench-loops`, or `python -m tests.benchmarks.loops.cost --model NAME`.

Two engines live at once, stock vLLM and the looped one, and take turns, so that what else the machine does
falls on both. Every ratio is within a round. A batch is drafts of one prompt, as repair asks for them; the
prompt is in the prefix cache: what is timed is decoding.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from model.config import LoopedConfig
from model.memory import start_line
from model.provision import resolve
from pipeline.config import Settings
from workers.engine.environment import engine_environment
from workers.engine.settings import EngineSettings

DEPTHS = (1, 2, 4, 8)
_PROMPT = "def f(x):\n" + "\n".join(f"    y{i} = x + {i}" for i in range(40)) + "\n    return x\n"
Seconds = dict[str, list[float]]  # by kind of batch, a value for each round
_llm: Any = None  # the child's engine


class Engine:
    """One engine in a process of its own."""

    def __init__(self, folder: Path, config: LoopedConfig | None, settings: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_start, initargs=(folder, config, settings)
        )

    def seconds(self, depths: Sequence[int], num_tokens: int) -> float:
        """Return how long one batch takes with a request of each of these depths."""
        return self._pool.submit(_seconds, tuple(depths), num_tokens).result()

    def compact_rows(self, is_on: bool) -> None:
        """Let rows that are done leave the batch, or run along masked."""
        self._pool.submit(_compact_rows, is_on).result()

    def peak_mib(self) -> float:
        """Return the largest resident size of the engine's process so far."""
        return self._pool.submit(_peak_mib).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print Markdown tables."""
    options = _options(argv)
    settings = EngineSettings(
        model_path=str(resolve(options.model)), max_recurrence_depth=max(DEPTHS)
    ).resolved()
    folder, config = Path(settings.model_path), settings.loop
    assert config is not None
    # Before the processes start; stdout is for the tables.
    os.environ.update(engine_environment(settings, on_cpu=True) | {"VLLM_LOGGING_LEVEL": "ERROR"})
    shared = {
        "dtype": settings.dtype,
        "max_num_seqs": max(options.batch),
        "kv_cache_memory_bytes": options.kv_bytes,
    }
    stock, looped = Engine(folder, None, shared), Engine(folder, config, shared)
    try:
        print(f"{options.model} {settings.dtype}, {start_line(config, settings.dtype)}")
        for batch in options.batch:
            print_tables(measured(stock, looped, batch, options), batch, options)
        print(f"\nPeak memory: stock {stock.peak_mib():.0f} MiB, looped {looped.peak_mib():.0f} MiB")
    finally:
        stock.close()
        looped.close()
    return 0


def measured(stock: Engine, looped: Engine, batch: int, options: argparse.Namespace) -> Seconds:
    """Return how long each kind of batch took in each round; the kinds take turns."""
    mixed = [DEPTHS[i % len(DEPTHS)] for i in range(batch)]
    kinds: dict[str, tuple[Engine, list[int], bool]] = {
        "stock": (stock, [1] * batch, True),
        **{f"depth {depth}": (looped, [depth] * batch, True) for depth in DEPTHS},
        "mixed": (looped, mixed, True),
        "masked": (looped, mixed, False),
        **{f"part {depth}": (looped, [depth] * mixed.count(depth), True) for depth in DEPTHS},
    }
    seconds: Seconds = {kind: [] for kind in kinds}
    for turn in range(options.rounds + 1):
        for kind, (engine, depths, is_compact) in kinds.items():
            if engine is looped:
                engine.compact_rows(is_compact)
            taken = engine.seconds(depths, options.tokens)
            if turn > 0:  # the first turn fills the prefix cache
                seconds[kind].append(taken)
            print(f"batch {batch}, round {turn}: {kind} {taken:.2f} s", file=sys.stderr, flush=True)
    return seconds


def print_tables(seconds: Seconds, batch: int, options: argparse.Namespace) -> None:
    """Print what the seconds say."""
    tokens = batch * options.tokens
    ideal = _sums([seconds[f"depth {depth}"] for depth in DEPTHS], share=1 / len(DEPTHS))
    apart = _sums([seconds[f"part {depth}"] for depth in DEPTHS])
    each = f"{options.tokens} tokens each, {options.rounds} rounds"
    print(f"\nbatch {batch}, {each}; medians (smallest to largest)\n")
    print("| | seconds | tokens/s | times depth 1 |\n|---|---|---|---|")
    for kind in ("stock", *(f"depth {depth}" for depth in DEPTHS)):
        taken = median(seconds[kind])
        print(
            f"| {kind} | {taken:.2f} | {tokens / taken:.1f} | {_ratio(seconds[kind], seconds['depth 1'])} |"
        )
    print(f"\nplugin at depth 1 against stock, tokens/s: {_ratio(seconds['stock'], seconds['depth 1'])}")
    print(f"mixed batch of depths {DEPTHS}: {median(seconds['mixed']):.2f} s")
    print(f"- of the ideal, the sum of each row's cost: {_ratio(ideal, seconds['mixed'])} reached")
    print(f"- masked compute takes {_ratio(seconds['masked'], seconds['mixed'])} times as long")
    print(
        f"- one engine for each depth, in turn: {_ratio(apart, seconds['mixed'])} times as long", flush=True
    )


def _sums(rounds: list[list[float]], share: float = 1.0) -> list[float]:
    return [share * sum(of_round) for of_round in zip(*rounds, strict=True)]


def _ratio(these: list[float], those: list[float]) -> str:
    """Return the ratio within each round, whatever else the machine did in it."""
    ratios = [a / b for a, b in zip(these, those, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _start(folder: Path, config: LoopedConfig | None, settings: dict[str, Any]) -> None:
    global _llm
    from vllm import LLM

    from model.vllm_plugin.serving import assert_registered, engine_kwargs

    assert_registered()
    looped = engine_kwargs(config) if config is not None else {"enforce_eager": True}
    _llm = LLM(str(folder), max_model_len=1024, block_size=32, **settings, **looped)


def _seconds(depths: tuple[int, ...], num_tokens: int) -> float:
    from vllm import SamplingParams

    is_looped = hasattr(_llm.llm_engine.model_config.hf_config, "loopwright_looped")
    params = [
        SamplingParams(
            max_tokens=num_tokens,
            ignore_eos=True,
            temperature=0.8,
            extra_args={"recurrence_depth": depth} if is_looped else None,
        )
        for depth in depths
    ]
    started = time.monotonic()
    _llm.generate([_PROMPT] * len(depths), params, use_tqdm=False)
    return time.monotonic() - started


def _compact_rows(is_on: bool) -> None:
    _llm.collective_rpc("compact_rows", args=(is_on,))


def _peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=Settings().model, help="name or folder of a checkpoint")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[32, 64, 128], help="requests in a batch, multiples of 4"
    )
    parser.add_argument("--tokens", type=int, default=24, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kv-bytes", type=int, default=3 << 30)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
