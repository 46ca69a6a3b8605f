"""Spreads the scoring of pieces over reading workers, and replaces those that die.

The caller's event loop holds the reading; a worker holds nothing but the few chunks that it is asked. A chunk
ends when the engine has answered it, so that a slow engine slows down what is handed out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.context.descent.pieces import Piece
from pipeline.context.descent.scorer import CALLS_PER_PIECE, Score
from pipeline.context.reading_trace import Trace
from pipeline.exceptions import GeneratorError, LoopwrightError
from workers.reading import Material, ReadingWorker, WorkerSettings


class WorkerLostError(GeneratorError):
    """A worker died with what it was asked, or none is left. `worker` is its name."""

    def __init__(self, message: str, worker: str = "") -> None:
        super().__init__(message)
        self.worker = worker


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How the work is spread, and how much dying is put up with."""

    num_workers: int = 4
    num_in_flight: int = 2  # chunks at one worker: one is computed while the next one waits
    # Each one to three prompts. The 24 cards of a descent's level are eight chunks, two for each of four
    # workers; smaller ones would leave the engine too little to batch.
    chunk_pieces: int = 3
    num_attempts: int = 3  # of a chunk, each on another worker
    num_replacements: int = 32  # of workers that die, in all


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    handle: Any
    num_in_flight: int = 0


class WorkerPool:
    """Reading workers over one tree, on the connected Ray. It belongs to one event loop.

    The workers end with `close`, and with the driver however that ends.
    """

    def __init__(self, settings: WorkerSettings, limits: PoolLimits | None = None) -> None:
        self.settings = settings
        self.limits = limits or PoolLimits()
        self._workers: list[_Worker] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._num_replacements = self.limits.num_replacements
        self._numbers = itertools.count(1)
        self._changed = asyncio.Condition()
        self._why = ""  # there is no other in the place of one that died
        self._material: Any = None  # the reference; each worker reads the same object

    async def open(self, material: Material) -> None:
        """Put what is read into the object store, and start the workers.

        Raises:
            GeneratorError: the engine does not answer them.
            WorkerLostError: one died before it was up.
        """
        import ray

        self._material = ray.put(material)
        starts = (self._start() for _ in range(self.limits.num_workers))
        started = await asyncio.gather(*starts, return_exceptions=True)
        self._workers += [one for one in started if isinstance(one, _Worker)]
        for error in started:
            if isinstance(error, BaseException):
                await self.close()
                raise error

    async def close(self) -> None:
        """End all workers, whatever they do."""
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for worker in self._workers:
            _kill(worker.handle)
        self._workers.clear()
        await self._tell()

    async def ask(self, method: str, *arguments: Any) -> tuple[str, Any]:
        """Have the worker with the fewest chunks run a method; return its name and what it says.

        Raises:
            WorkerLostError: it died meanwhile, or none is left to ask. One that died is being replaced.
            GeneratorError: the engine failed.
        """
        import ray

        worker = await self._free()
        reference = getattr(worker.handle, method).remote(*arguments)
        try:
            return worker.name, await reference
        except asyncio.CancelledError:
            ray.cancel(reference)
            raise
        except Exception as error:
            found = _translated(error, worker.name)
            if isinstance(found, WorkerLostError):
                self._replace(worker)
            raise found from error
        finally:
            worker.num_in_flight -= 1
            await self._tell()

    async def _free(self) -> _Worker:
        """Return the worker with the fewest chunks in flight, once one may be given another."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_room() or self._is_gone())
            if self._is_gone():
                raise WorkerLostError(f"no reading worker is left{self._why}")
            worker = min(self._workers, key=lambda one: one.num_in_flight)
            worker.num_in_flight += 1
            return worker

    def _has_room(self) -> bool:
        return any(worker.num_in_flight < self.limits.num_in_flight for worker in self._workers)

    def _is_gone(self) -> bool:
        return not self._workers and not self._starting

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _replace(self, dead: _Worker) -> None:
        if dead not in self._workers:
            return  # another of its chunks has told so
        self._workers.remove(dead)
        _kill(dead.handle)  # it may only be out of reach
        task = asyncio.create_task(self._add())
        self._starting.add(task)

    async def _add(self) -> None:
        """Start a worker in place of one that died, and again where that one dies, too."""
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._num_replacements > 0:
                self._num_replacements -= 1
                with contextlib.suppress(WorkerLostError):
                    self._workers.append(await self._start())
                    break
        except LoopwrightError as exc:
            self._why = f": {exc}"  # such as an engine that is gone; the workers that are left go on
        finally:
            self._starting.discard(task)
            await self._tell()

    async def _start(self) -> _Worker:
        import ray

        name = f"reading-{next(self._numbers)}"
        options = {
            "num_cpus": 0,  # it waits for the engine most of the time
            "max_restarts": 0,  # we replace it ourselves, and know then what was lost
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        handle = ray.remote(ReadingWorker).options(**options).remote(self.settings, self._material)
        try:
            await handle.open.remote()
        except BaseException as error:
            _kill(handle)
            if isinstance(error, Exception):
                raise _translated(error, name) from error
            raise
        return _Worker(name, handle)


class RayScorer:
    """A `pipeline.context.descent.judge.Scorer` over the workers of a pool, for one reading.

    What cannot be had even from another worker comes back as lost, never as an error: the rest keeps its
    scores. Deaths are in the trace. A lost chunk costs what its workers had kept in the memo; what an engine
    did for one that had kept nothing yet is known to nobody.
    """

    def __init__(self, pool: WorkerPool, trace: Trace) -> None:
        self._pool = pool
        self._trace = trace

    @property
    def calls_per_piece(self) -> int:
        """How many calls of the model one piece takes."""
        return CALLS_PER_PIECE[self._pool.settings.calibration]

    @property
    def num_parallel(self) -> int:
        """How many batches are worked on side by side."""
        return self._pool.limits.num_workers

    async def count_tokens(self, query: str, pieces: Sequence[Piece]) -> int:
        """Return how many tokens the calls for these pieces take, answers included.

        Raises:
            GeneratorError: the engine failed, or no worker answers.
        """
        _, num_tokens = await self._ask("count_tokens", pieces, query, pieces)
        return int(num_tokens)

    async def scores(self, query: str, pieces: Sequence[Piece]) -> list[Score]:
        """Return a score for each piece, in order; those of a chunk that is lost say why."""
        size = self._pool.limits.chunk_pieces
        chunks = [pieces[start : start + size] for start in range(0, len(pieces), size)]
        rows = await asyncio.gather(*(self._chunk(query, chunk) for chunk in chunks))
        return [score for row in rows for score in row]

    async def _chunk(self, query: str, chunk: Sequence[Piece]) -> list[Score]:
        chunk_id = uuid.uuid4().hex
        try:
            worker, scores = await self._ask("scores", chunk, chunk_id, query, chunk)
        except GeneratorError as exc:
            lost = Score(None, None, 0, 0, 0, worker=getattr(exc, "worker", ""), error=str(exc))
            return [await self._with_cost(lost, chunk_id), *[lost] * (len(chunk) - 1)]
        return [replace(score, worker=worker) for score in scores]

    async def _with_cost(self, lost: Score, chunk_id: str) -> Score:
        paid = await asyncio.to_thread(self._pool.settings.memo.paid_by, chunk_id)
        return replace(
            lost,
            num_prompt_tokens=sum(score.num_prompt_tokens for score in paid),
            num_completion_tokens=sum(score.num_completion_tokens for score in paid),
            num_calls=sum(score.num_calls for score in paid),
        )

    async def _ask(self, method: str, pieces: Sequence[Piece], *arguments: Any) -> tuple[str, Any]:
        """Ask a worker, and others where it dies; the same arguments each time, and so the same chunk id."""
        lost: WorkerLostError | None = None
        for _ in range(self._pool.limits.num_attempts):
            try:
                return await self._pool.ask(method, *arguments)
            except WorkerLostError as exc:
                lost = exc if exc.worker or lost is None else lost
                if not exc.worker:
                    break
                self._trace.add("error", f"{exc}; it had {len(pieces)} pieces", worker=exc.worker)
        assert lost is not None
        raise lost


def _kill(handle: Any) -> None:
    import ray

    with contextlib.suppress(Exception):
        ray.kill(handle)


def _translated(error: Exception, worker: str) -> Exception:
    """Return our error for one of Ray's; one that is not Ray's comes back as it is."""
    from ray.exceptions import RayActorError, RayError, RayTaskError

    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, LoopwrightError):
            return cause
        return GeneratorError(f"{worker} failed: {type(cause).__name__}: {cause}")
    if isinstance(error, RayActorError):
        return WorkerLostError(f"{worker} died", worker)
    if isinstance(error, RayError):
        return GeneratorError(f"Ray failed: {error}")
    return error
