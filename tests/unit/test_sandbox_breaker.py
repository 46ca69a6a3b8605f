"""Whose fault it is that a run failed, and what becomes of the others meanwhile."""

import asyncio

import pytest

from pipeline.core import Outcome, SandboxRequest, SandboxResult
from pipeline.exceptions import SandboxLostError
from pipeline.testing import RecordingSandbox
from workers.sandbox.breaker import BreakerSandbox

BROKEN = SandboxResult(outcome=Outcome.INFRA_ERROR, error="connection refused")
FINE = SandboxResult(outcome=Outcome.EXITED, exit_code=0)


def request(name: str) -> SandboxRequest:
    return SandboxRequest(argv=("pytest", name))


class Engine(RecordingSandbox):
    """A sandbox that is down for the next so many runs."""

    def __init__(self, num_failures: int) -> None:
        super().__init__(respond=self._answer)
        self.num_failures = num_failures
        self.probed = asyncio.Event()

    async def run(self, request):
        await asyncio.sleep(0)  # others get a chance to run
        if request.argv == ("true",):
            self.probed.set()
        return await super().run(request)

    def _answer(self, request):
        self.num_failures -= 1
        return BROKEN if self.num_failures >= 0 else FINE

    @property
    def num_probes(self) -> int:
        return sum(request.argv == ("true",) for request in self.requests)


def breaker(engine: RecordingSandbox, lost_after_seconds: float = 60, on_progress=None) -> BreakerSandbox:
    return BreakerSandbox(engine, lost_after_seconds, on_progress, max_pause_seconds=0)


async def test_an_engine_that_restarts_costs_no_run_its_result():
    engine, said = Engine(num_failures=9), []
    sandbox = breaker(engine, on_progress=said.append)
    results = await asyncio.gather(*(sandbox.run(request(name)) for name in "abcd"))
    assert results == [FINE] * 4
    assert said == ["warning: the sandbox does not work, waiting for it: connection refused"]


async def test_runs_that_come_while_the_engine_is_down_wait_for_it():
    engine = Engine(num_failures=5)
    sandbox = breaker(engine)
    first = asyncio.create_task(sandbox.run(request("a")))
    await engine.probed.wait()
    assert await sandbox.run(request("b")) == FINE
    assert await first == FINE
    assert [r.argv[-1] for r in engine.requests if r.argv[-1] != "true"] in (["a", "a", "b"], ["a", "b", "a"])


async def test_a_run_that_fails_while_others_work_is_told_as_failed():
    engine = RecordingSandbox(respond=lambda r: BROKEN if r.argv[-1] == "bad" else FINE)
    sandbox = breaker(engine)
    assert await sandbox.run(request("bad")) == BROKEN
    assert await sandbox.run(request("good")) == FINE
    assert len(engine.requests) < 10


async def test_an_engine_that_does_not_come_back_is_told_to_all_who_wait():
    engine = Engine(num_failures=10_000)
    sandbox = breaker(engine, lost_after_seconds=0)
    answers = await asyncio.gather(*(sandbox.run(request(n)) for n in "ab"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [SandboxLostError] * 2
    assert "connection refused" in str(answers[0])
    assert engine.num_probes == 1


async def test_what_was_lost_is_found_again_by_the_next_run():
    engine = Engine(num_failures=2)
    sandbox = breaker(engine, lost_after_seconds=0)
    with pytest.raises(SandboxLostError):
        await sandbox.run(request("a"))
    assert await sandbox.run(request("a")) == FINE


async def test_a_cancelled_run_does_not_end_the_waiting_of_another():
    engine = Engine(num_failures=50)
    sandbox = breaker(engine)
    runs = [asyncio.create_task(sandbox.run(request(name))) for name in "ab"]
    await engine.probed.wait()
    runs[0].cancel()
    assert await runs[1] == FINE


async def test_closing_ends_the_waiting():
    engine = Engine(num_failures=10_000)
    sandbox = breaker(engine, lost_after_seconds=600)
    run = asyncio.create_task(sandbox.run(request("a")))
    await engine.probed.wait()
    await sandbox.close()
    num_requests = len(engine.requests)
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(engine.requests) == num_requests
