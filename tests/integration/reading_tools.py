"""What a reading over Ray workers is tried with: a shelf of small files, and an engine that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zlib import crc32

import psutil

from pipeline.context.descent.beam import Options
from pipeline.context.descent.judge import Scorer
from pipeline.context.descent.localise import localise_by_descent
from pipeline.context.descent.memo import ScoreMemo
from pipeline.context.lexical import LexicalIndex
from pipeline.context.reading import Findings, Query
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import Purse
from pipeline.context.tree.index import index
from pipeline.context.units import units
from pipeline.core import Budget, Completion, GeneratorInfo, Prompt, Sampling, Step
from pipeline.snapshot import Snapshot
from pipeline.testing import ScriptedGenerator
from workers.engine.backend import Piece as EnginePiece
from workers.engine.batch import Event, SampleKey
from workers.engine.service import EngineService
from workers.engine.settings import EngineSettings
from workers.reading import Material, WorkerSettings
from workers.reading_pool import PoolLimits, RayScorer, WorkerPool

PATIENCE_SECONDS = 240
QUERY = "which page reads f12 or f30 backwards, and why?"
_OPTIONS = Options(num_whole=0, beam=30, width=60, num_bodies=80)
_BUDGET = Budget(num_calls=100_000, num_tokens=100_000_000)


class Shelf:
    """A tree of many small files, and what was read of it."""

    def __init__(self, root: Path, num_folders: int = 40, num_files: int = 4) -> None:
        for folder in range(num_folders):
            for number in range(num_files):
                path = root / f"part{folder}" / f"page{number}.py"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(_page(f"{folder}{number}"), "utf-8")
        snapshot = Snapshot(root, "")
        self.root = root
        self.tree = index(snapshot)
        self.words = LexicalIndex(units(self.tree, snapshot))
        self.material = Material(self.tree, self.words.units)

    async def read(self, scorer: Scorer, trace: Trace, purse: Purse, options: Options = _OPTIONS) -> Findings:
        """Descend with a scorer."""
        return await localise_by_descent(
            Query(text=QUERY),
            self.tree,
            self.words.units,
            self.words.ranked(QUERY),
            scorer=scorer,
            purse=purse,
            trace=trace,
            options=options,
        )

    def purse(self, name: str) -> Purse:
        """Return a purse that is full enough."""
        return Purse.open(self.root.with_name(f"{name}.purse"), _BUDGET, time.time() + _BUDGET.wall_seconds)


def _page(name: str) -> str:
    return f"def f{name}(x):\n    return x + {name}\n\n\ndef g{name}(x):\n    return x - {name}\n"


@dataclass
class SlowEngine:
    """An engine whose answers depend on the prompt alone. All note what they are asked in one file."""

    log: Path
    seconds: float  # of a call, half of it to one and a half times, by what is asked

    def __post_init__(self) -> None:
        self._inner = ScriptedGenerator(_odds, steps=_first_token)

    async def info(self) -> GeneratorInfo:
        """Return a description of the script."""
        return await self._inner.info()

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Count at once."""
        return await self._inner.count_tokens(prompts)

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Note the call, take its time, and note its end."""
        names = [hashlib.sha256(repr(prompt).encode()).hexdigest()[:12] for prompt in prompts]
        self._note("asked", names)
        await asyncio.sleep(self.seconds * (0.5 + int(names[0], 16) / 16**12))
        self._note("answered", names)
        return await self._inner.generate(prompts, sampling)

    def _note(self, event: str, names: Sequence[str]) -> None:
        line = json.dumps({"pid": os.getpid(), "event": event, "prompts": names}) + "\n"
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)


def _odds(prompt: Prompt, _: Sampling, __: int) -> str:
    return _said(prompt.messages[-1].content.encode())


def _said(text: bytes) -> str:
    return str(crc32(text) / 2**32 * 6 - 3)


def _first_token(said: str) -> tuple[Step, ...]:
    yes = 1 / (1 + math.exp(-float(said)))
    return (Step("Yes", math.log(yes), (("No", math.log(1 - yes)),)),)


class TokenBackend:
    """An engine's inside that answers as SlowEngine does; its tokens are the bytes of the last message."""

    is_dead = False

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the bytes."""
        return list(prompt.messages[-1].content.encode())

    def check(self, sampling: Sampling) -> None:
        """Take anything."""

    async def stream(
        self, request_id: str, tokens: list[int], sampling: Sampling, seed: int
    ) -> AsyncGenerator[EnginePiece, None]:
        """Say yes or no."""
        await asyncio.sleep(0.05)
        yield EnginePiece("Yes", 1, "stop", _first_token(_said(bytes(tokens))))

    def shutdown(self) -> None:
        """Nothing to end."""


class TokenEngine(EngineService):
    """An engine for `workers.cluster.attach`, on an actor whose methods name their client."""

    def __init__(self) -> None:
        super().__init__(TokenBackend(), EngineSettings(model_path="scripted", max_model_tokens=100_000))

    async def touch(self, client: str) -> None:
        """Take note."""

    async def generate(
        self, client: str, prompts: Sequence[Prompt], sampling: Sampling, wanted: Sequence[SampleKey]
    ) -> AsyncGenerator[Event, None]:
        """Draft the wanted samples."""
        async with contextlib.aclosing(super().generate(prompts, sampling, wanted)) as events:
            async for event in events:
                yield event


@dataclass(frozen=True)
class Desk:
    """Where one reading leaves its files."""

    folder: Path

    @property
    def memo(self) -> ScoreMemo:
        """The scores that its workers keep."""
        return ScoreMemo(self.folder / "scores.sqlite")

    def settings(self, seconds: float) -> WorkerSettings:
        """Return what its workers are started with; each has an engine of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return WorkerSettings(
            make_generator=partial(SlowEngine, self.folder / "engine.log", seconds), memo=self.memo
        )

    @contextlib.asynccontextmanager
    async def pool(
        self, shelf: Shelf, limits: PoolLimits, seconds: float = 0.05
    ) -> AsyncIterator[WorkerPool]:
        """Have workers for as long as the block lasts."""
        pool = WorkerPool(self.settings(seconds), limits)
        await pool.open(shelf.material)
        try:
            yield pool
        finally:
            await pool.close()
            await until(lambda: not reading_workers())

    def notes(self) -> list[dict]:
        """Return what the engines noted, in order."""
        log = self.folder / "engine.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def asked(self) -> Counter[str]:
        """Return how often the engines were asked each prompt."""
        return Counter(name for note in self.notes() if note["event"] == "asked" for name in note["prompts"])

    def most_in_flight(self) -> dict[int, int]:
        """Return for each process how many calls it had in flight at most."""
        now: Counter[int] = Counter()
        most: Counter[int] = Counter()
        for note in self.notes():
            now[note["pid"]] += 1 if note["event"] == "asked" else -1
            most[note["pid"]] = max(most[note["pid"]], now[note["pid"]])
        return dict(most)


@dataclass
class Reading:
    """What became of a reading over a pool."""

    found: Findings
    trace: Trace
    purse: Purse

    @property
    def judged(self) -> dict[str, str]:
        """What was said of each piece."""
        said = [event.title.rpartition(": ") for event in self.trace.events if event.kind == "score"]
        return {key: value for key, _, value in said}


async def read_over(pool: WorkerPool, shelf: Shelf, desk: Desk) -> Reading:
    """Read the shelf by the workers of a pool."""
    trace, purse = Trace(), shelf.purse(desk.folder.name)
    return Reading(await shelf.read(RayScorer(pool, trace), trace, purse), trace, purse)


def reading_workers() -> list[psutil.Process]:
    """Return the processes below this one in which a reading worker lives."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            is_alive = process.status() != psutil.STATUS_ZOMBIE
            if is_alive and "ReadingWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)
