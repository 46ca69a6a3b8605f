"""The warm pool: one run for each sandbox, none of another shape or dead, and nothing left at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from pipeline.core import SandboxLimits, SandboxRequest
from pipeline.exceptions import SandboxError
from workers.sandbox.pool import WarmPool, shape_of

REQUEST = SandboxRequest(argv=("true",))
OTHER = SandboxRequest(argv=("true",), limits=SandboxLimits(num_pids=50))


class Slot:
    def __init__(self, request: SandboxRequest) -> None:
        self.request = request
        self.is_alive = True
        self.num_ends = 0

    async def end(self) -> None:
        self.num_ends += 1
        self.is_alive = False


class Starts:
    """Starts slots, and remembers them."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.error: SandboxError | None = None

    async def __call__(self, request: SandboxRequest) -> Slot:
        if self.error:
            raise self.error
        self.slots.append(Slot(request))
        return self.slots[-1]


@pytest.fixture
def starts() -> Starts:
    return Starts()


async def ask(pool: WarmPool[Slot]) -> None:
    """Have the pool know the shape: one that is asked for only once is not worth a start ahead."""
    await pool.give_back(await pool.lease(REQUEST))
    assert pool.num_spare == 0


@pytest.fixture
async def pool(starts: Starts) -> AsyncIterator[WarmPool[Slot]]:
    made = WarmPool(starts, size=2)
    await ask(made)
    yield made
    await made.close()
    assert [slot.num_ends for slot in starts.slots] == [1] * len(starts.slots)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2_000):  # turns of the event loop
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("waited in vain")


async def test_one_is_started_ahead_for_each_that_is_leased_and_none_serves_twice(
    pool: WarmPool[Slot], starts: Starts
) -> None:
    leased = []
    for _ in range(4):
        leased.append(await pool.lease(REQUEST))
        await until(lambda: pool.num_spare == 1)
        await pool.give_back(leased[-1])
    assert len({id(slot) for slot in leased}) == 4
    assert leased == starts.slots[1:5]
    await until(lambda: all(slot.num_ends for slot in leased))


async def test_one_of_another_shape_is_never_leased(pool: WarmPool[Slot]) -> None:
    await pool.give_back(await pool.lease(REQUEST))
    await until(lambda: pool.num_spare == 1)
    slot = await pool.lease(OTHER)
    assert slot.request is OTHER
    await pool.give_back(slot)


def test_requests_that_differ_in_what_is_told_over_stdin_have_one_shape() -> None:
    told = SandboxRequest(argv=("false",), env={"A": "1"}, layers=(b"x",), collect=("f",), run_id="r")
    quieter = SandboxRequest(argv=("true",), limits=SandboxLimits(output_bytes=2048))
    assert shape_of(REQUEST) == shape_of(told) == shape_of(quieter)
    networked = SandboxRequest(argv=("true",), network=True)
    imaged = SandboxRequest(argv=("true",), image="other")
    assert len({shape_of(REQUEST), shape_of(OTHER), shape_of(networked), shape_of(imaged)}) == 4


async def test_one_that_died_while_it_waited_is_not_leased(pool: WarmPool[Slot], starts: Starts) -> None:
    await pool.give_back(await pool.lease(REQUEST))
    await until(lambda: pool.num_spare == 1)
    starts.slots[-1].is_alive = False
    slot = await pool.lease(REQUEST)
    assert slot.is_alive
    await pool.give_back(slot)


async def test_no_more_wait_than_the_size_says(pool: WarmPool[Slot], starts: Starts) -> None:
    leased = [await pool.lease(REQUEST) for _ in range(5)]
    await until(lambda: pool.num_spare == 2)
    for slot in leased:
        await pool.give_back(slot)
    await until(lambda: all(slot.num_ends for slot in leased))
    assert (pool.num_spare, len(starts.slots)) == (2, 8)


async def test_what_cannot_be_started_ahead_is_told_to_the_run_that_needs_it(
    pool: WarmPool[Slot], starts: Starts
) -> None:
    slot = await pool.lease(REQUEST)
    starts.error = SandboxError("no memory")
    await pool.give_back(slot)
    await until(lambda: bool(slot.num_ends))
    with pytest.raises(SandboxError, match="no memory"):
        await pool.lease(REQUEST)
    starts.error = None
    await pool.give_back(await pool.lease(REQUEST))


async def test_one_that_nobody_needs_is_ended(starts: Starts) -> None:
    pool = WarmPool(starts, size=1, max_idle_seconds=0.01)
    await ask(pool)
    slot = await pool.lease(REQUEST)
    await until(lambda: len(starts.slots) == 3)
    await until(lambda: starts.slots[2].num_ends == 1)
    await pool.give_back(slot)
    await pool.close()
    assert [slot.num_ends for slot in starts.slots] == [1, 1, 1]


async def test_without_a_size_nothing_waits(starts: Starts) -> None:
    pool = WarmPool(starts, size=0)
    await pool.give_back(await pool.lease(REQUEST))
    assert [slot.num_ends for slot in starts.slots] == [1]


def test_the_end_of_the_event_loop_ends_those_that_wait(starts: Starts) -> None:
    async def use() -> None:
        pool = WarmPool(starts, size=2)
        await ask(pool)
        await pool.give_back(await pool.lease(REQUEST))
        await until(lambda: pool.num_spare == 1)

    asyncio.run(use())
    assert [slot.num_ends for slot in starts.slots] == [1, 1, 1]
