"""Progress of a long step, as a value and a callback; who shows it, and how, is the caller's business."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step is."""

    step: str  # download, assemble, read, convert, hash, wait
    done_bytes: int = 0
    total_bytes: int = 0  # 0: not known
    note: str = ""  # what the step is about, for a person


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Show nothing."""


@contextmanager
def watching(folder: Path, total_bytes: int, on_progress: OnProgress, note: str) -> Iterator[None]:
    """Report the size of all files in `folder` as a download's progress while the block runs.

    For downloaders that do not report progress themselves in a way that can be read.
    """
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(_POLL_SECONDS):
            on_progress(Progress("download", min(folder_bytes(folder), total_bytes), total_bytes, note))

    thread = threading.Thread(target=report, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below `folder`, as far as they can be read while others write them."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
