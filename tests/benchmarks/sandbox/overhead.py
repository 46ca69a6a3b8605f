"""What a run costs over the bare command: cold and warm, in Docker and bubblewrap, side by side.

    python -m tests.benchmarks.sandbox.overhead [--runs 200] [--engines bubblewrap,docker] [--out FILE]

The ways take turns, so that all of them see the same machine. Warm is a run that comes when a sandbox
waits for it. Then each runs as many no-ops as it can, eight at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from pipeline.core import SandboxRequest
from pipeline.owner import this_process
from tests.integration.sandbox_tools import processes, until
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox
from workers.sandbox.docker_sandbox import DockerSandbox, connect
from workers.sandbox.image import DEFAULT_TAG
from workers.sandbox.supervisor import PROCESS_PREFIX

_COMMAND = ("true",)
_REQUEST = SandboxRequest(argv=_COMMAND)
_NUM_AT_ONCE, _NUM_WARM = 8, 2
AnySandbox = BubblewrapSandbox | DockerSandbox


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200, help="of each way")
    parser.add_argument("--engines", default="bubblewrap,docker")
    parser.add_argument("--out", type=Path, help="the numbers, as JSON")
    options = parser.parse_args(argv)
    numbers = asyncio.run(_measured(options.engines.split(","), options.runs))
    if options.out:
        options.out.write_text(json.dumps(numbers, indent=1))
    print(table(numbers["milliseconds"], numbers["runs_per_second"]))
    for engine, mib in numbers["idle_mib"].items():
        print(f"\na sandbox of {engine} that waits: {mib:.1f} MiB (PSS)")
    return 0


def table(milliseconds: dict[str, list[float]], runs_per_second: dict[str, float]) -> str:
    """Return the ways as a Markdown table; overhead is against the median of the bare command."""
    bare = statistics.median(milliseconds["bare"])
    lines = ["| | median, ms | p95, ms | overhead, ms | runs/s, 8 at a time |", "|---|---|---|---|---|"]
    for name, values in milliseconds.items():
        median, p95 = statistics.median(values), statistics.quantiles(values, n=20)[-1]
        lines.append(
            f"| {name} | {median:.0f} | {p95:.0f} | {median - bare:.0f} | {runs_per_second[name]:.1f} |"
        )
    return "\n".join(lines)


async def _measured(engines: Sequence[str], num_runs: int) -> dict[str, Any]:
    sandboxes = {
        f"{engine}, {'warm' if num_warm else 'cold'}": _sandbox(engine, num_warm)
        for engine in engines
        for num_warm in (0, _NUM_WARM)
    }
    ways: dict[str, Callable[[], Awaitable[None]]] = {"bare": _bare}
    ways |= {name: _running(sandbox) for name, sandbox in sandboxes.items()}
    numbers: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(num_runs):
        for name, run in ways.items():
            if "warm" in name and turn > 1:  # the first two runs of a shape find none that waits
                await _until_one_waits(sandboxes[name])
            started = time.perf_counter()
            await run()
            numbers[name].append(1000 * (time.perf_counter() - started))
        print(f"\r{turn + 1} of {num_runs}", end="", file=sys.stderr, flush=True)
    idle_mib = {}
    for engine in engines:
        await _until_one_waits(sandboxes[f"{engine}, warm"])
        idle_mib[engine] = _idle_mib(engine) / sandboxes[f"{engine}, warm"].num_spare
    throughput = {name: await _throughput(run, num_runs) for name, run in ways.items()}
    for sandbox in sandboxes.values():
        await sandbox.close()
    return {"milliseconds": numbers, "runs_per_second": throughput, "idle_mib": idle_mib}


def _sandbox(engine: str, num_warm: int) -> AnySandbox:
    if engine == "bubblewrap":
        return BubblewrapSandbox(num_warm=num_warm)
    client = connect()
    return DockerSandbox(client, str(client.images.get(DEFAULT_TAG).id), num_warm=num_warm)


async def _bare() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=pipe, stdout=pipe, stderr=pipe)
    await process.communicate()


def _running(sandbox: AnySandbox) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        result = await sandbox.run(_REQUEST)
        assert result.exit_code == 0, result

    return run


async def _until_one_waits(sandbox: AnySandbox) -> None:
    await until(lambda: sandbox.num_spare > 0)
    await asyncio.sleep(0.02)  # for what ends the one before


async def _throughput(run: Callable[[], Awaitable[None]], num_runs: int) -> float:
    left = iter(range(num_runs))

    async def work() -> None:
        for _ in left:
            await run()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(_NUM_AT_ONCE)))
    return num_runs / (time.perf_counter() - started)


def _idle_mib(engine: str) -> float:
    """Return what the engine's sandboxes hold that wait; a container's shim is part of it."""
    parts: set[psutil.Process] = set()
    for process in processes(f"{PROCESS_PREFIX}{this_process()}"):
        shim = next((parent for parent in process.parents() if "containerd-shim" in parent.name()), None)
        if (shim is not None) == (engine == "docker"):
            parts.update({shim, *shim.children(recursive=True)} if shim else {process})
    return sum(process.memory_full_info().pss for process in parts) / (1 << 20)


if __name__ == "__main__":
    sys.exit(main())
