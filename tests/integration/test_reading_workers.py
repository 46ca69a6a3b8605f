"""A reading spread over Ray workers: the same spans however many there are and whoever is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipeline.context.descent.localise import localise_by_words
from pipeline.context.descent.memo import MemoScorer, ScoreMemo
from pipeline.context.descent.pieces import Pieces
from pipeline.context.descent.scorer import YesNoScorer
from pipeline.context.reading import Ending, Query
from pipeline.context.reading_trace import Trace
from tests.integration.reading_tools import (
    PATIENCE_SECONDS,
    QUERY,
    Desk,
    Reading,
    Shelf,
    SlowEngine,
    TokenEngine,
    read_over,
    reading_workers,
    until,
)
from workers import ray_runtime
from workers.cluster import attach
from workers.reading import WorkerSettings
from workers.reading_pool import PoolLimits, WorkerPool

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NUM_KILLS = 10
_CALLS = 1  # for a piece
_DRIVER = """
import asyncio, sys
from pathlib import Path
from tests.integration.reading_tools import Desk, Shelf
from workers import ray_runtime
from workers.reading_pool import PoolLimits, WorkerPool

async def main(folder, address, state):
    ray_runtime.join_ray(address, state)
    pool = WorkerPool(Desk(folder / "desk").settings(0.1), PoolLimits(num_workers=2))
    await pool.open(Shelf(folder / "shelf", 2, 2).material)
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*map(Path, sys.argv[1:2]), sys.argv[2], Path(sys.argv[3])))
"""


@pytest.fixture(scope="module", autouse=True)
def ray(ray_state) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")  # workers import this folder
        folder = ray_runtime.start_ray(ray_state)
        yield
        ray_runtime.stop_ray(folder)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelves") / "shelf")


@pytest.fixture(scope="module")
def undisturbed(shelf, tmp_path_factory) -> Reading:
    """The reading in this process."""
    desk, trace = Desk(tmp_path_factory.mktemp("alone")), Trace()
    inner = YesNoScorer(SlowEngine(desk.folder / "engine.log", 0.0), Pieces(shelf.tree, shelf.words.units))
    purse = shelf.purse("alone")
    found = asyncio.run(shelf.read(MemoScorer(inner, desk.memo), trace, purse))
    return Reading(found, trace, purse)


@pytest.mark.parametrize("num_workers", [1, 4])
async def test_any_number_of_workers_finds_what_one_process_finds_and_asks_everything_once(
    shelf, undisturbed, tmp_path, num_workers
):
    desk = Desk(tmp_path / "desk")
    async with desk.pool(shelf, PoolLimits(num_workers=num_workers)) as pool:
        reading = await read_over(pool, shelf, desk)

    assert reading.found.spans == undisturbed.found.spans
    assert paid(reading) == paid(undisturbed)
    assert set(desk.asked().values()) == {1}
    workers = {event.worker for event in reading.trace.events if event.kind == "score"}
    assert workers == {f"reading-{number}" for number in range(1, num_workers + 1)}


async def test_what_was_read_before_costs_nothing_and_is_marked_so(shelf, undisturbed, tmp_path):
    desk = Desk(tmp_path / "desk")
    async with desk.pool(shelf, PoolLimits(num_workers=2)) as pool:
        first = await read_over(pool, shelf, desk)
        again = await read_over(pool, shelf, Desk(desk.folder.with_name("again")))

    assert again.found.spans == first.found.spans == undisturbed.found.spans
    assert paid(again) == (0, 0, 0)
    assert again.found.spend.num_cached_calls == first.found.spend.num_calls
    assert all(event.is_cached for event in again.trace.events if event.kind == "score")
    assert set(desk.asked().values()) == {1}


async def test_workers_share_the_engines_that_are_there(shelf, undisturbed, tmp_path):
    import ray

    names = ("engine-a", "engine-b")
    engines = [ray.remote(TokenEngine).options(name=name, num_cpus=0).remote() for name in names]
    desk, limits = Desk(tmp_path / "desk"), PoolLimits(num_workers=2)
    pool = WorkerPool(WorkerSettings(make_generator=partial(attach, names, 60.0), memo=desk.memo), limits)
    await pool.open(shelf.material)
    try:
        reading = await read_over(pool, shelf, desk)
    finally:
        await pool.close()

    assert [span.node_id for span in reading.found.spans] == [s.node_id for s in undisturbed.found.spans]
    counts = [(await engine.counters.remote()).num_requests for engine in engines]
    assert sum(counts) == paid(reading)[0]
    assert min(counts) > 0
    await until(lambda: not reading_workers())


async def test_no_worker_has_more_chunks_in_flight_than_it_may(shelf, tmp_path):
    desk = Desk(tmp_path / "desk")
    async with desk.pool(shelf, PoolLimits(num_workers=2, num_in_flight=3, chunk_pieces=2), 0.2) as pool:
        await read_over(pool, shelf, desk)

    assert set(desk.most_in_flight().values()) == {3}


@pytest.mark.parametrize("seed", [1, 2])
async def test_ten_killed_workers_change_nothing_and_nothing_is_accounted_twice(
    shelf, undisturbed, tmp_path, seed
):
    desk = Desk(tmp_path / "desk")
    limits = PoolLimits(num_workers=4, chunk_pieces=2, num_attempts=NUM_KILLS + 1)
    async with desk.pool(shelf, limits, 0.5) as pool:
        num_pieces = paid(undisturbed)[0] // _CALLS
        killing = asyncio.create_task(kill_workers(desk, num_pieces, random.Random(seed)))
        reading = await read_over(pool, shelf, desk)
        assert killing.done(), "the reading was over before all were killed"
        await killing

    assert reading.found.spans == undisturbed.found.spans
    assert (reading.found.coverage, reading.found.ending) == (1.0, Ending.COMPLETE)
    assert paid(reading) == paid(undisturbed)
    assert len(desk.memo) == num_pieces
    assert any(event.worker and event.kind == "error" for event in reading.trace.events)
    # What was in flight at a killed worker is asked again, and nothing else.
    at_one_worker = limits.num_in_flight * limits.chunk_pieces * _CALLS
    assert sum(desk.asked().values()) - num_pieces * _CALLS <= NUM_KILLS * at_one_worker


async def test_workers_that_are_lost_for_good_lower_coverage_and_are_named(shelf, undisturbed, tmp_path):
    desk = Desk(tmp_path / "desk")
    async with desk.pool(shelf, PoolLimits(num_workers=2, num_replacements=0, chunk_pieces=2), 0.5) as pool:
        killing = asyncio.create_task(kill_all(desk, 2, 20))
        reading = await read_over(pool, shelf, desk)
        await killing

    assert 0 < reading.found.coverage < 1
    assert reading.judged.items() <= undisturbed.judged.items()
    assert {"reading-1", "reading-2"} <= {e.worker for e in reading.trace.events if e.kind == "error"}
    assert found_by_words(shelf) <= {span.node_id for span in reading.found.spans}


async def test_what_a_chunk_that_is_lost_for_good_has_paid_is_accounted(shelf, tmp_path):
    desk, limits = Desk(tmp_path / "desk"), PoolLimits(num_workers=1, num_attempts=1, num_replacements=2)
    pool = WorkerPool(replace(desk.settings(0.0), memo=DeadlyMemo(desk.memo.path)), limits)
    await pool.open(shelf.material)
    try:
        reading = await read_over(pool, shelf, desk)
    finally:
        await pool.close()

    assert reading.found.coverage == 0
    assert paid(reading)[0] == len(desk.memo) * _CALLS > 0


async def test_without_any_worker_the_words_ranking_is_what_is_found(shelf, tmp_path):
    desk = Desk(tmp_path / "desk")
    async with desk.pool(shelf, PoolLimits(num_workers=1, num_replacements=0)) as pool:
        await kill_all(desk, 1, 0)
        reading = await read_over(pool, shelf, desk)

    assert reading.found.coverage == 0
    by_words = localise_by_words(Query(text=QUERY), shelf.words).spans
    assert [span.node_id for span in reading.found.spans] == [span.node_id for span in by_words]


def test_a_killed_driver_leaves_no_worker_behind(ray_state, tmp_path):
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", _DRIVER, str(tmp_path), address, str(ray_state)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert driver.stdout
    assert driver.stdout.readline() == "up\n"
    assert len(reading_workers()) == 2
    driver.kill()
    driver.communicate()
    asyncio.run(until(lambda: not reading_workers()))


class DeadlyMemo(ScoreMemo):
    """A memo whose worker dies as soon as it has kept something."""

    def add(self, scores, payer):
        super().add(scores, payer)
        os.kill(os.getpid(), signal.SIGKILL)


def paid(reading: Reading) -> tuple[int, int, int]:
    """Return what the purse has paid: calls, tokens of prompts and of answers; the findings say the same."""
    spent, said = reading.purse.spent(), reading.found.spend
    numbers = (spent.num_calls, spent.num_prompt_tokens, spent.num_completion_tokens)
    assert numbers == (said.num_calls, said.num_prompt_tokens, said.num_completion_tokens)
    return numbers


def found_by_words(shelf: Shelf) -> set[str]:
    return {span.node_id for span in localise_by_words(Query(text=QUERY), shelf.words).spans[:10]}


async def kill_workers(desk: Desk, num_pieces: int, choice: random.Random) -> None:
    """Kill ten workers, each once so many pieces are finished, the last one well before all are."""
    for num_finished in sorted(choice.sample(range(num_pieces * 2 // 3), NUM_KILLS)):
        await until(lambda enough=num_finished: len(desk.memo) >= enough and bool(reading_workers()))
        kill(choice.choice(sorted(reading_workers(), key=lambda process: process.pid)))


async def kill_all(desk: Desk, num_workers: int, num_finished: int) -> None:
    """Kill all workers once so many pieces are finished."""
    victims: list[psutil.Process] = []

    def are_due() -> bool:
        victims[:] = reading_workers()  # one that changes its title has none for a moment
        return len(victims) == num_workers and len(desk.memo) >= num_finished

    await until(are_due)
    for process in victims:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(victims, timeout=PATIENCE_SECONDS)


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([process], timeout=PATIENCE_SECONDS)
