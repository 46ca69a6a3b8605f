"""Ctrl-C, SIGTERM and a closed terminal: the same orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from pipeline.cli.errors import ExitCode
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


CHILD = """
import pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
def end(number, _):
    (folder / "told").write_text(signal.Signals(number).name)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(folder / "ready").touch()
signal.pause()
"""
PARENT = """
import sys
from pipeline.cli.bench_run import run_child
sys.exit(run_child([sys.executable, "-c", sys.argv[1], sys.argv[2]]))
"""


def test_a_bench_that_is_to_end_ends_its_batch_first(tmp_path):
    argv = [sys.executable, "-c", PARENT, CHILD, str(tmp_path)]
    with subprocess.Popen(argv) as process:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
        process.terminate()
        assert process.wait(30) == ExitCode.INTERRUPTED
    assert (tmp_path / "told").read_text() == "SIGTERM"
