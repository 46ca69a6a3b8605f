"""The events of a reading as a tree, each with what it and all below it cost: for page and terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.context.reading_trace import Event
from pipeline.text import count, printable


@dataclass(frozen=True, slots=True)
class Branch:
    """An event and those below it."""

    event: Event
    branches: tuple[Branch, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of it and of all below."""
        own = self.event.num_prompt_tokens + self.event.num_completion_tokens
        return own + sum(branch.num_tokens for branch in self.branches)

    @property
    def num_events(self) -> int:
        """How many events lie below."""
        return len(self.branches) + sum(branch.num_events for branch in self.branches)


def branches_of(events: Iterable[Event]) -> tuple[Branch, ...]:
    """Return the events without a parent, each with those below it, in the order in which they happened."""
    below: dict[int | None, list[Event]] = defaultdict(list)
    for event in events:
        below[event.parent_id].append(event)

    def grown(parent: int | None) -> tuple[Branch, ...]:
        return tuple(Branch(event, grown(event.event_id)) for event in below.get(parent, ()))

    return grown(None)


def lines_of(branches: Sequence[Branch], *, max_children: int = 12, depth: int = 0) -> Iterator[str]:
    """Yield a line for each event, indented by its depth; of many beside each other the first ones."""
    for branch in branches[:max_children]:
        event = branch.event
        cost = f" ({count(branch.num_tokens, 'token')})" if branch.num_tokens else ""
        cached = ", known before" if event.is_cached else ""
        yield f"{'  ' * depth}{event.kind}: {printable(event.title, 160)}{cost}{cached}"
        yield from lines_of(branch.branches, max_children=max_children, depth=depth + 1)
    if len(branches) > max_children:
        yield f"{'  ' * depth}and {len(branches) - max_children} more"
