"""The engine's service and the generator over it, with a scripted engine at the edge."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

import pytest

from model.testing import tiny_config
from pipeline.core import Message, Prompt, Sampling
from pipeline.exceptions import EngineDeadError, GeneratorError, InputError
from workers.engine.backend import Piece
from workers.engine.batch import EngineCounters
from workers.engine.clients import GONE_SECONDS, Clients
from workers.engine.service import EngineService
from workers.engine.settings import EngineSettings
from workers.generator import RayGenerator

SETTINGS = EngineSettings(model_path="scripted", max_model_tokens=10, max_recurrence_depth=4)


@dataclass
class ScriptedBackend:
    """Drafts two words per sample, as soon as its gate is open; dies when told to."""

    dies_after: int | None = None  # samples that end before it dies
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    started: list[int] = field(default_factory=list)  # seeds
    aborted: list[int] = field(default_factory=list)
    num_finished: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def is_dead(self) -> bool:
        return self.dies_after is not None and self.num_finished >= self.dies_after

    def tokenize(self, prompt: Prompt) -> list[int]:
        return list(range(len(prompt.messages[0].content)))

    def check(self, sampling: Sampling) -> None:
        if sampling.recurrence_depth > 4:
            raise InputError("too deep")

    async def stream(
        self, request_id: str, tokens: list[int], sampling: Sampling, seed: int
    ) -> AsyncGenerator[Piece, None]:
        self.started.append(seed)
        try:
            yield Piece("a", 1)
            await self.gate.wait()
            if self.is_dead:
                raise EngineDeadError("dead")
            self.num_finished += 1
            yield Piece(f" {len(tokens)}:{seed}", 1, "stop")
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(seed)
            raise

    def shutdown(self) -> None: ...


def prompt(length: int) -> Prompt:
    return Prompt(messages=(Message("user", "x" * length),))


def replica(**script) -> tuple[ScriptedBackend, EngineService]:
    backend = ScriptedBackend(**script)
    return backend, EngineService(backend, SETTINGS)


async def test_completions_come_back_in_the_order_of_prompts_and_samples():
    _, service = replica()
    rows = await RayGenerator([service]).generate([prompt(3), prompt(5)], Sampling(num_samples=2, seed=7))
    assert [[c.text for c in row] for row in rows] == [["a 3:7", "a 3:8"], ["a 5:7", "a 5:8"]]
    assert rows[1][0].num_prompt_tokens == 5
    assert rows[1][0].num_completion_tokens == 2


async def test_an_engine_tells_the_depth_that_its_model_was_trained_for():
    backend, plain = replica()
    looped = EngineService(backend, replace(SETTINGS, loop=tiny_config("ouro", recurrence_depth=3)))
    depths = [(await service.info()).recurrence_depth for service in (plain, looped)]
    assert depths == [1, 3]


async def test_nothing_asked_is_nothing_answered():
    _, service = replica()
    assert await RayGenerator([service]).generate([], Sampling()) == []


async def test_a_prompt_that_leaves_no_room_refuses_the_batch_before_anything_runs():
    backend, service = replica()
    with pytest.raises(InputError, match=r"prompt 1 has 10 tokens .* window of 10"):
        await RayGenerator([service]).generate([prompt(3), prompt(10)], Sampling())
    assert backend.started == []


async def test_a_bad_depth_is_refused_while_others_run_on():
    backend, service = replica()
    backend.gate.clear()
    generator = RayGenerator([service])
    running = asyncio.create_task(generator.generate([prompt(3)], Sampling()))
    await until(lambda: backend.started)
    with pytest.raises(InputError, match="too deep"):
        await generator.generate([prompt(3)], Sampling(recurrence_depth=9))
    backend.gate.set()
    [[completion]] = await running
    assert completion.text == "a 3:0"


async def test_cancelling_a_batch_aborts_its_samples_in_the_engine():
    backend, service = replica()
    backend.gate.clear()
    running = asyncio.create_task(RayGenerator([service]).generate([prompt(3)], Sampling(num_samples=3)))
    await until(lambda: len(backend.started) == 3)
    assert await service.queue_length() == 3
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(backend.aborted) == [0, 1, 2]
    assert await service.queue_length() == 0


async def test_what_a_dying_engine_took_with_it_is_drafted_again_by_another():
    dying, dying_service = replica(dies_after=1)
    living, living_service = replica()
    generator = RayGenerator([dying_service, living_service])
    rows = await generator.generate([prompt(3), prompt(4)], Sampling(num_samples=2))
    assert [[c.text for c in row] for row in rows] == [["a 3:0", "a 3:1"], ["a 4:0", "a 4:1"]]
    assert dying.num_finished == 1
    assert living.num_finished == 3  # its own prompt, and only what was unfinished of the other


async def test_a_dead_replica_does_not_hide_the_living_one():
    class Dead(EngineService):
        async def info(self):
            raise EngineDeadError("dead")

    (backend, _), (_, living) = replica(), replica()
    generator = RayGenerator([Dead(backend, SETTINGS), living])
    assert (await generator.info()).max_model_tokens == 10


async def test_a_second_death_is_the_end():
    _, first = replica(dies_after=1)
    _, second = replica(dies_after=0)
    with pytest.raises(EngineDeadError):
        await RayGenerator([first, second]).generate([prompt(3)], Sampling(num_samples=2))


async def test_prompts_spread_over_replicas_and_samples_of_one_prompt_stay_together():
    engines = [replica(), replica()]
    generator = RayGenerator([service for _, service in engines])
    await generator.generate([prompt(n) for n in (1, 2, 3, 4)], Sampling(num_samples=3))
    assert [sorted(backend.started) for backend, _ in engines] == [[0, 0, 1, 1, 2, 2]] * 2


async def test_the_busy_replica_is_spared():
    (busy, busy_service), (idle, idle_service) = replica(), replica()
    busy.gate.clear()
    generator = RayGenerator([busy_service, idle_service])
    blocked = asyncio.create_task(RayGenerator([busy_service]).generate([prompt(3)], Sampling(num_samples=4)))
    await until(lambda: len(busy.started) == 4)
    await generator.generate([prompt(3)], Sampling(seed=99))
    assert 99 in idle.started
    busy.gate.set()
    await blocked


async def test_progress_ends_with_every_sample_and_every_token():
    _, service = replica()
    reports = []
    generator = RayGenerator([service], on_progress=lambda *numbers: reports.append(numbers))
    await generator.generate([prompt(3)], Sampling(num_samples=3))
    assert reports[-1] == (3, 3, 6)
    assert [done for done, _, _ in reports] == sorted(done for done, _, _ in reports)


async def test_counters_count_what_passed_through():
    _, service = replica()
    await RayGenerator([service]).generate([prompt(3)], Sampling(num_samples=2))
    counters = await service.counters()
    assert (counters.num_requests, counters.num_prompt_tokens, counters.num_completion_tokens) == (2, 6, 4)
    assert counters.num_running == 0
    assert counters.running_seconds > 0


async def test_the_idle_clock_stands_at_zero_while_a_sample_runs():
    backend, service = replica()
    backend.gate.clear()
    running = asyncio.create_task(RayGenerator([service]).generate([prompt(3)], Sampling()))
    await until(lambda: backend.started)
    assert (await service.counters()).idle_seconds == 0
    backend.gate.set()
    await running
    assert (await service.counters()).idle_seconds > 0


async def test_a_client_that_is_there_restarts_the_idle_clock():
    _, service = replica()
    before = (await service.counters()).idle_seconds
    await service.touch()
    assert (await service.counters()).idle_seconds < before


async def test_health_says_that_the_engine_is_dead():
    backend, service = replica()
    await service.health()
    backend.dies_after = 0
    with pytest.raises(EngineDeadError):
        await service.health()


def test_counters_of_several_engines_add_up_and_the_least_idle_counts():
    one = EngineCounters(num_requests=1, num_completion_tokens=10, running_seconds=2.0, idle_seconds=50.0)
    two = EngineCounters(num_requests=2, num_completion_tokens=30, running_seconds=4.0, idle_seconds=5.0)
    both = EngineCounters.of_all([one, two])
    assert (both.num_requests, both.idle_seconds, both.tokens_per_second) == (3, 5.0, 10.0)


def test_close_lets_go_once():
    closed = []
    _, service = replica()
    with RayGenerator([service], on_close=lambda: closed.append(1)) as generator:
        generator.close()
    assert closed == [1]


def test_a_client_counts_as_gone_only_after_a_long_silence():
    now = [0.0]
    clients = Clients(clock=lambda: now[0])
    clients.seen("fix")
    for now[0] in (GONE_SECONDS / 2, GONE_SECONDS):
        clients.require("fix")
    now[0] += 1.0
    with pytest.raises(GeneratorError, match="not heard of"):
        clients.require("fix")
    clients.seen("other")
    with pytest.raises(GeneratorError):  # forgotten is gone, too
        clients.require("fix")
    clients.seen("fix")
    clients.require("fix")


async def until(condition) -> None:  # the script offers no event to wait for
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
