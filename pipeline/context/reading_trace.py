"""Keeps the account of a reading as it goes on: what was read, asked and decided, and what it cost.

Events are appended to a file as they happen, so a killed reading leaves the account of what it did.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from pipeline.account import Event, EventKind

_MAX_TEXT_CHARS = 2000


class Trace:
    """Takes the events of one reading, and tells each. Without a file they are only kept in memory."""

    def __init__(self, path: Path | None = None, tell: Callable[[Event], None] | None = None) -> None:
        self._path = path
        self._tell = tell
        self._ids = itertools.count()
        self.events: list[Event] = []

    def add(
        self,
        kind: EventKind,
        title: str,
        *,
        parent: int | None = None,
        detail: str = "",
        node_id: str = "",
        num_prompt_tokens: int = 0,
        num_completion_tokens: int = 0,
        seconds: float = 0.0,
        is_cached: bool = False,
        worker: str = "",
    ) -> int:
        """Append an event and return its id, by which later ones name it as their parent."""
        event = Event(
            event_id=next(self._ids),
            parent_id=parent,
            kind=kind,
            title=" ".join(title.split())[:200],
            detail=detail[:_MAX_TEXT_CHARS],
            node_id=node_id,
            num_prompt_tokens=num_prompt_tokens,
            num_completion_tokens=num_completion_tokens,
            seconds=seconds,
            is_cached=is_cached,
            worker=worker,
        )
        self.events.append(event)
        if self._path:
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(json.dumps(asdict(event)) + "\n")
        if self._tell:
            self._tell(event)
        return event.event_id

    def children(self, parent: int | None) -> Iterator[Event]:
        """Yield the events right below one, in order."""
        return (event for event in self.events if event.parent_id == parent)
