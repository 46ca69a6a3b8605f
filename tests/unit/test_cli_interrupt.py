"""Ctrl-C, SIGTERM and a closed terminal: the same orderly end."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from pipeline.cli.interrupt import run_interruptibly


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_the_run_before_it_ends(number):
    unwound = []

    async def work() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleaning up may wait
            unwound.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(work())
    assert unwound == [True]


def test_an_error_while_a_stopped_run_unwinds_does_not_hide_that_it_was_stopped():
    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("the engine is gone")

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(work())


def test_without_a_signal_results_and_errors_come_through():
    async def answer() -> int:
        return 7

    async def fail() -> None:
        raise ValueError("no")

    assert run_interruptibly(answer()) == 7
    with pytest.raises(ValueError, match="no"):
        run_interruptibly(fail())
