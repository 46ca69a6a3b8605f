"""What an engine's queue does to those that want to add to it."""

from __future__ import annotations

import asyncio

from pipeline.core import Message, Prompt, Sampling
from pipeline.testing import ScriptedGenerator
from workers.reading import PatientGenerator

PROMPT = Prompt((Message("user", "hi"),))


class Queued(ScriptedGenerator):
    """A generator that says how long its queue is: as long as the test wants it to be."""

    def __init__(self) -> None:
        super().__init__(["said"])
        self.length = 8
        self.was_looked_at = asyncio.Event()

    async def queue_length(self) -> int:
        self.was_looked_at.set()
        return self.length


async def test_nothing_is_added_to_a_queue_that_is_full():
    engine = Queued()
    asking = asyncio.create_task(PatientGenerator(engine, 8).generate([PROMPT], Sampling()))
    async with asyncio.timeout(30):
        await engine.was_looked_at.wait()
        engine.was_looked_at.clear()
        await engine.was_looked_at.wait()  # it was looked at again
        assert engine.calls == []
        engine.length = 7
        [[completion]] = await asking

    assert completion.text == "said"


async def test_an_engine_without_a_queue_is_asked_at_once():
    engine = ScriptedGenerator(["said"])

    [[completion]] = await PatientGenerator(engine, 0).generate([PROMPT], Sampling())

    assert completion.text == "said"
