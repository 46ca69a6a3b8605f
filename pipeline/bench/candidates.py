"""Which mutations of a tree are tried, in which order: those that tests reach, all operators in turn."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.bench.mutation import Mutation, mutations
from pipeline.bench.source import Source
from pipeline.exceptions import InputError
from pipeline.snapshot import Snapshot
from pipeline.testrun import CoverageMap, is_trusted

_MAX_SOURCE_BYTES = 512 << 10


@dataclass(frozen=True)
class Reached:
    """A mutation and the test functions that run its lines."""

    mutation: Mutation
    tests: frozenset[str]


@dataclass
class Quotas:
    """How many single-site bugs one function, one file and one operator may give."""

    per_function: int
    per_file: int
    per_operator: int
    _taken: Counter[str] = field(default_factory=Counter)

    def admits(self, mutation: Mutation) -> bool:
        """Say whether one more of its kind may be taken."""
        return all(self._taken[key] < limit for key, limit in self._keys(mutation))

    def take(self, mutation: Mutation) -> None:
        """Count it."""
        self._taken.update(key for key, _ in self._keys(mutation))

    def _keys(self, mutation: Mutation) -> Iterator[tuple[str, int]]:
        yield f"function {mutation.place}", self.per_function
        yield f"file {mutation.path}", self.per_file
        yield f"operator {mutation.operator}", self.per_operator


def quotas_for(num_tasks: int, num_files: int) -> Quotas:
    """Return the quotas of a repository: an operator gives a sixth, one file of several the half, at most."""
    per_file = num_tasks if num_files < 2 else max(-(-num_tasks // 2), 1)
    return Quotas(per_function=1, per_file=per_file, per_operator=max(-(-num_tasks // 6), 1))


def load_sources(snapshot: Snapshot, coverage: CoverageMap, skipped: Counter[str]) -> dict[str, Source]:
    """Return the files that tests run and that are no tests; `skipped` counts why others are left out."""
    sources = {}
    for path in snapshot.python_paths:
        if is_trusted(path) or path not in coverage.bits:
            continue
        data = snapshot.read_bytes(path)
        if len(data) > _MAX_SOURCE_BYTES:
            skipped["file too large"] += 1
            continue
        try:
            sources[path] = Source(path, data)
        except InputError:
            skipped["file is no Python"] += 1
    return sources


def reached(
    sources: Iterable[Source], coverage: CoverageMap, passing: frozenset[str], skipped: Counter[str]
) -> list[Reached]:
    """Return the mutations of lines that tests run, and that no import runs, in order of path and text."""
    functions = {test_id.partition("[")[0] for test_id in passing}
    found = []
    for source in sources:
        for mutation in mutations(source):
            lines = range(mutation.reach[0], mutation.reach[1] + 1)
            if coverage.is_imported(source.path, lines):
                skipped["runs at import"] += 1
            elif tests := coverage.tests_at(source.path, lines) & functions:
                found.append(Reached(mutation, tests))
            else:
                skipped["no test reaches it"] += 1
    return found


def in_fair_order(candidates: Iterable[Reached], rng: random.Random) -> list[Reached]:
    """Return them shuffled, an operator after the other, and within one a function after the other."""
    by_operator: dict[str, list[Reached]] = defaultdict(list)
    for candidate in candidates:
        by_operator[candidate.mutation.operator].append(candidate)
    names = sorted(by_operator)
    rng.shuffle(names)
    columns = [_alternating(by_operator[name], rng, lambda c: c.mutation.place) for name in names]
    longest = max(map(len, columns), default=0)
    return [column[i] for i in range(longest) for column in columns if i < len(column)]


def _alternating(items: list[Reached], rng: random.Random, key: Callable[[Reached], str]) -> list[Reached]:
    rng.shuffle(items)
    seen: Counter[str] = Counter()
    rounds = []
    for item in items:
        rounds.append(seen[key(item)])
        seen[key(item)] += 1
    return [item for _, item in sorted(zip(rounds, items, strict=True), key=lambda pair: pair[0])]
