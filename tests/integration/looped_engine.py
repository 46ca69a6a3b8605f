"""A real vLLM engine on a tiny checkpoint, in a child process of its own, for the tests of the looped model.

The engine runs inside the child itself, not in vLLM's own further processes: one import serves all, and a
test can step it by hand.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import LoopedConfig
from tests.integration.batch_tools import LOOPWRIGHT

BLOCK_SIZE = 32  # tokens of a KV block
CHUNK = 48  # tokens; no multiple of a block, so chunks end inside blocks
LONG_PROMPT = tuple(i * 37 % 251 for i in range(150))
PROMPTS = (LONG_PROMPT[:5], LONG_PROMPT[3:70], LONG_PROMPT[10:31], LONG_PROMPT[90:])
_llm: Any = None  # the child's engine


@dataclass(frozen=True)
class Ask:
    """One request, greedy unless it has a seed. Depth None leaves the depth out."""

    token_ids: tuple[int, ...]
    depth: Any = None
    num_tokens: int = 16
    seed: int | None = None
    exit_rule: str | None = None
    exit_threshold: float | None = None
    wants_report: bool = False


@dataclass(frozen=True)
class Answer:
    """What came back."""

    token_ids: tuple[int, ...]
    logprobs: tuple[dict[int, float], ...]  # of the likeliest tokens at each step
    num_cached_tokens: int
    report: dict[str, Any] | None = None  # of what the loop did


class EngineProcess:
    """Starts an engine, looped unless `loop` is None, and asks it."""

    def __init__(self, checkpoint: Path, loop: LoopedConfig | None, **settings: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["vllm.entrypoints.llm", "vllm.v1.worker.cpu_worker"])
        self.loop = loop
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_start, initargs=(checkpoint, loop, settings)
        )

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(llm, *args), run in the child."""
        return self._pool.submit(_call, function, *args).result(timeout=240)

    def ask(self, *asks: Ask) -> list[Answer]:
        """Run the requests as one batch."""
        return self.call(run, self.loop, asks)

    def ask_alone(self, *asks: Ask) -> list[Answer]:
        """Run the requests one after the other."""
        return [answer for ask in asks for answer in self.ask(ask)]

    def compact_rows(self, is_on: bool) -> None:
        """Let rows that are done leave the batch, or run along masked."""
        self.call(_rpc, "compact_rows", is_on)

    def metric(self, name: str) -> float:
        """Return a counter of vLLM's own metrics."""
        return self.call(_metric, name)

    def close(self) -> None:
        """End the child."""
        self._pool.shutdown()


def start_error(checkpoint: Path, loop: LoopedConfig, **settings: Any) -> str:
    """Return why an engine does not start: the error's class and message, or nothing where it does."""
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_start_error, checkpoint, loop, settings).result(timeout=240)


def serve_command(checkpoint: Path, *arguments: str) -> tuple[list[str], int]:
    """Return the command that serves a tiny checkpoint over HTTP, and the free port that it names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = ["--set", "engine.max_model_tokens=512", "--set", "engine.kv_cache_bytes=67108864"]
    serve = [*LOOPWRIGHT, "model", "serve", "--model", str(checkpoint), "--port", str(port)]
    return [*serve, *limits, *arguments], port


def prompt_and_params(loop: LoopedConfig | None, ask: Ask) -> tuple[Any, Any]:
    """Return what vLLM takes for a request, put together as the serving path does it."""
    from vllm import SamplingParams

    from model.vllm_plugin.serving import request_kwargs

    prompt: dict[str, Any] = {"prompt_token_ids": list(ask.token_ids)}
    temperature = 0.0 if ask.seed is None else 1.0
    params = SamplingParams(
        temperature=temperature, seed=ask.seed, max_tokens=ask.num_tokens, ignore_eos=True, logprobs=4
    )
    if loop is not None:
        params.extra_args = request_kwargs(
            loop,
            ask.depth,
            exit_rule=ask.exit_rule,
            exit_threshold=ask.exit_threshold,
            wants_report=ask.wants_report,
        )
    return prompt, params


def answer_of(output: Any) -> Answer:
    """Return the plain values of a RequestOutput."""
    [completion] = output.outputs
    return Answer(
        token_ids=tuple(completion.token_ids),
        logprobs=tuple({t: lp.logprob for t, lp in step.items()} for step in completion.logprobs),
        num_cached_tokens=output.num_cached_tokens,
        report=(output.kv_transfer_params or {}).get("loop_report"),
    )


def run(llm: Any, loop: LoopedConfig | None, asks: Sequence[Ask]) -> list[Answer]:
    """Run the requests as one batch on an engine of this process."""
    prompts, params = zip(*[prompt_and_params(loop, ask) for ask in asks], strict=True)
    return [answer_of(output) for output in llm.generate(list(prompts), list(params), use_tqdm=False)]


def _start(checkpoint: Path, loop: LoopedConfig | None, settings: dict[str, Any]) -> None:
    global _llm
    os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **settings.pop("environment", {})})
    import torch
    import torch._dynamo

    torch.set_num_threads(1)  # two cores that others use as well, and a model that fits a cache line
    torch._dynamo.config.disable = True  # vLLM compiles its logprob counting even when eager
    from vllm import LLM

    from model.vllm_plugin.serving import assert_registered, engine_kwargs

    assert_registered()
    defaults = {
        "model": str(checkpoint),
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 16,
        "block_size": BLOCK_SIZE,
        "kv_cache_memory_bytes": 64 << 20,
        "enforce_eager": True,
        "disable_log_stats": False,
    }
    looped = engine_kwargs(loop) if loop is not None else {}
    _llm = LLM(**{**defaults, **looped, **settings})


def _start_error(checkpoint: Path, loop: LoopedConfig, settings: dict[str, Any]) -> str:
    try:
        _start(checkpoint, loop, settings)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(_llm, *args)


def _rpc(llm: Any, method: str, *args: Any) -> Any:
    return llm.collective_rpc(method, args=args)


def _metric(llm: Any, name: str) -> float:
    [metric] = [metric for metric in llm.get_metrics() if metric.name == name]
    return metric.value
