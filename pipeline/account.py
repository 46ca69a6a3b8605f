"""The account of a reading: its events, and as a tree each with what it and all below it cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.text import Text
from rich.tree import Tree

from pipeline.text import count, printable

EventKind = Literal["question", "plan", "read", "ask", "cell", "score", "decide", "error", "answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened."""

    event_id: int
    parent_id: int | None  # None is the root
    kind: EventKind
    title: str  # one line
    detail: str = ""  # what was said, shortened
    node_id: str = ""  # of the tree, where the event is about a node
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    seconds: float = 0.0
    is_cached: bool = False  # answered from the ledger: nothing was paid
    worker: str = ""


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


def branches_of(events: Iterable[Event]) -> tuple[Branch, ...]:
    """Return the events without a parent, each with those below it, in the order in which they happened."""
    below: dict[int | None, list[Event]] = defaultdict(list)
    for event in events:
        below[event.parent_id].append(event)

    def grown(parent: int | None) -> tuple[Branch, ...]:
        return tuple(Branch(event, grown(event.event_id)) for event in below.get(parent, ()))

    return grown(None)


def tree_of(branches: Sequence[Branch], *, max_children: int = 12) -> Tree:
    """Return the branches as a terminal shows them: a line for each event, of many in one the first ones."""
    tree = Tree("How it was read")
    _grow(tree, branches, max_children)
    return tree


def _grow(tree: Tree, branches: Sequence[Branch], max_children: int) -> None:
    for branch in branches[:max_children]:
        _grow(tree.add(Text(_line(branch))), branch.branches, max_children)
    if len(branches) > max_children:
        tree.add(Text(f"and {len(branches) - max_children} more"))


def _line(branch: Branch) -> str:
    event = branch.event
    cost = f" ({count(branch.num_tokens, 'token')})" if branch.num_tokens else ""
    cached = ", known before" if event.is_cached else ""
    return f"{event.kind}: {printable(event.title, 160)}{cost}{cached}"
