"""Which Python functions call each other, by name and import: it decides where a ranking has equals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import PurePosixPath
from typing import NamedTuple

from pipeline.context.symbols import called_names, module_statements

CALLS, IMPORTS, NOTHING = 2, 1, 0


class Source(NamedTuple):
    """A function as the call graph needs it."""

    path: str
    name: str  # without its class
    text: str


class CallGraph:
    """How near functions are to each other. Nothing is parsed before it is asked for, and nothing twice."""

    def __init__(self, source_of: Callable[[str], Source], read: Callable[[str], bytes]) -> None:
        """Take what a key stands for, and what a path holds: its imports at module level are enough."""
        self._source_of = source_of
        self._read = read
        self._called = cache(lambda key: called_names(source_of(key).text.encode()))
        self._imports = cache(self._imports_of)

    def nearness(self, caller: str, other: str) -> int:
        """Return CALLS where the first calls the second, IMPORTS where its file imports the other's."""
        ours, its = self._source_of(caller), self._source_of(other)
        if not (ours.path.endswith(".py") and its.path.endswith(".py")):
            return NOTHING
        is_imported = ours.path != its.path and _module_name(its.path) in self._imports(ours.path)
        if (is_imported or ours.path == its.path) and its.name in self._called(caller):
            return CALLS
        return IMPORTS if is_imported else NOTHING

    def _imports_of(self, path: str) -> frozenset[str]:
        statements = module_statements(self._read(path))
        return frozenset().union(*(one.names for one in statements if one.kind == "import"))


def tie_broken(
    order: Sequence[str], scores: Mapping[str, float], nearness: Callable[[str, str], int]
) -> list[str]:
    """Return the order, best first; of those with equal scores first what a higher ranked one is near to."""
    found: list[str] = []
    for _, group in groupby(order, key=scores.__getitem__):
        tied, higher = list(group), tuple(found)
        if len(tied) > 1:
            tied.sort(key=lambda key: -max((nearness(above, key) for above in higher), default=NOTHING))
        found += tied
    return found


def _module_name(path: str) -> str:
    place = PurePosixPath(path)
    return place.parent.name if place.stem == "__init__" else place.stem
