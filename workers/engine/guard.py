"""Ends an engine's processes when the actor that started them is gone, however it went.

vLLM's engine process does not notice that its parent was killed, and would keep its gigabytes for ever. The
guard is a small process that waits for the actor's end of a pipe to close, then kills every process that
carries the actor's mark in its environment.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid

MARK = "LOOPWRIGHT_ENGINE_MARK"


def start_guard() -> subprocess.Popen[bytes]:
    """Mark this process's future children and start their guard. Keep the result: dropping it kills them."""
    os.environ[MARK] = mark = uuid.uuid4().hex
    environment = {name: value for name, value in os.environ.items() if name not in (MARK, "LD_PRELOAD")}
    return subprocess.Popen(
        [sys.executable, "-I", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # outlives a kill of the actor's process group
    )


def kill_marked(mark: str) -> None:
    """Kill every process whose environment carries the mark."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                process.kill()


if __name__ == "__main__":
    sys.stdin.buffer.read()  # returns when the actor is gone
    kill_marked(sys.argv[1])
