"""The search for bugs in one source: which mutants are tried, and which are kept."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pipeline.bench.candidates import Quotas, Reached, in_fair_order, load_sources, quotas_for, reached
from pipeline.bench.harness import Base, Harness, Noticed
from pipeline.bench.mutation import Mutation, drop_reason
from pipeline.bench.recipe import Sites
from pipeline.bench.source import Source
from pipeline.snapshot import Snapshot

_TRIES_PER_TASK = 15
_TRIES_PER_SITE = 4  # of those that could stand beside a first one
_MIN_GAP_LINES = 2  # between two sites in one function
_COPY_LINES = 4  # before and after an edit: what no other file may hold as well
_MULTI: tuple[Sites, ...] = ("function", "file", "files")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for in one source."""

    num_tasks: int
    seed: int = 0
    multi_share: float = 0.2  # of the tasks have two or three sites
    num_parallel: int = 2  # sandboxes at once


@dataclass(slots=True, kw_only=True)
class Account:
    """What became of one source's mutations."""

    project: str
    num_passing_tests: int = 0
    num_failing_tests: int = 0
    num_flaky_tests: int = 0
    num_found: int = 0  # mutations that a test reaches
    skipped: Counter[str] = field(default_factory=Counter)  # before any test ran, by reason
    tried: Counter[str] = field(
        default_factory=Counter
    )  # by verdict; of several sites each, and all together
    tried_by_operator: dict[str, Counter[str]] = field(default_factory=dict)
    kept: Counter[str] = field(
        default_factory=Counter
    )  # by operator; a task of several sites counts for each
    kept_by_sites: Counter[str] = field(default_factory=Counter)

    def note(self, operators: Iterable[str], verdict: str) -> None:
        """Count the end of one mutant."""
        self.tried[verdict] += 1
        for operator in operators:
            self.tried_by_operator.setdefault(operator, Counter())[verdict] += 1


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed tree and what its tests say."""

    parts: tuple[Reached, ...]
    files: Mapping[str, bytes]
    noticed: Noticed

    @property
    def functions(self) -> frozenset[str]:
        """The functions that are changed."""
        return frozenset(part.mutation.place for part in self.parts)


@dataclass
class Workshop:
    """One source's candidates, and the search for mutants to keep."""

    snapshot: Snapshot
    base: Base
    harness: Harness
    search: Search
    account: Account
    say: Say
    sources: Mapping[str, Source]
    order: Sequence[Reached]
    rng: random.Random
    _reasons: dict[str, str] = field(default_factory=dict)  # why a mutation is not tried, by key
    _noted: set[frozenset[str]] = field(default_factory=set)
    _programs: set[str] = field(default_factory=set)

    @classmethod
    def opened(
        cls, snapshot: Snapshot, base: Base, harness: Harness, search: Search, account: Account, say: Say
    ) -> Workshop:
        """Find all candidates and put them in order."""
        rng = random.Random(f"{search.seed}:{account.project}")  # noqa: S311 - a draw of lots, no secret
        sources = load_sources(snapshot, base.coverage, account.skipped)
        found = reached(sources.values(), base.coverage, base.passing, account.skipped)
        account.num_found = len(found)
        order = in_fair_order(found, rng)
        return cls(snapshot, base, harness, search, account, say, sources, order, rng)

    async def mutants(self) -> AsyncIterator[Mutant]:
        """Yield the mutants to keep: those of one site, then those of several."""
        num_multi = round(self.search.num_tasks * self.search.multi_share)
        num_single = self.search.num_tasks - num_multi
        taken: set[str] = set()
        async for mutant in self._singles(num_single):
            taken |= mutant.functions
            yield self._keep(mutant, "single")
        # Functions that gave no bug yet come first.
        rest = sorted(self.order, key=lambda candidate: candidate.mutation.place in taken)
        async for mutant, sites in self._multiples(num_multi, rest):
            yield self._keep(mutant, sites)

    async def _singles(self, num: int) -> AsyncIterator[Mutant]:
        quotas = quotas_for(num, len({candidate.mutation.path for candidate in self.order}))
        waiting, num_kept, num_tried = iter(self.order), 0, 0
        while num_kept < num and num_tried < num * _TRIES_PER_TASK:
            window = self._window(waiting, quotas)
            if not window:
                return
            # Several at once, judged in their order: the outcome is that of one after the other.
            for mutant in await asyncio.gather(*(self._try((candidate,)) for candidate in window)):
                mutation = mutant.parts[0].mutation
                if num_kept == num or not quotas.admits(mutation):
                    continue
                num_tried += 1
                self._note(mutant)
                if mutant.noticed.verdict == "killed":
                    quotas.take(mutation)
                    num_kept += 1
                    yield mutant

    def _window(self, waiting: Iterable[Reached], quotas: Quotas) -> list[Reached]:
        """Return the next candidates worth a test run."""
        window: list[Reached] = []
        for candidate in waiting:
            if quotas.admits(candidate.mutation) and self._is_worth_it(candidate):
                window.append(candidate)
            if len(window) == self.search.num_parallel:
                break
        return window

    async def _multiples(self, num: int, rest: Sequence[Reached]) -> AsyncIterator[tuple[Mutant, Sites]]:
        """Combine sites each of which breaks a test by itself, so that all must be mended."""
        used: set[str] = set()
        num_kept = num_tried = 0
        kinds = _MULTI if len(self.sources) > 1 else _MULTI[:-1]
        offset = self.rng.randrange(len(kinds))
        for first in rest:
            if num_kept == num or num_tried >= num * _TRIES_PER_TASK:
                return
            if first.mutation.place in used or not self._is_worth_it(first):
                continue
            sites = kinds[(offset + num_kept) % len(kinds)]
            wanted = self.rng.choice((2, 2, 3))
            num_tried += 1
            parts = await self._partners(first, rest, sites, wanted, used)
            if len(parts) < 2:
                continue
            mutant = await self._try(parts)
            self._note(mutant)
            if mutant.noticed.verdict == "killed":
                used |= mutant.functions
                num_kept += 1
                yield mutant, sites

    async def _partners(
        self, first: Reached, rest: Sequence[Reached], sites: Sites, wanted: int, used: set[str]
    ) -> tuple[Reached, ...]:
        """Return the first site and those that fit it, each noticed by itself: what some tries give."""
        if not await self._is_killed(first):
            return ()
        parts, num_tried = [first], 0
        for other in rest:
            if len(parts) == wanted or num_tried == _TRIES_PER_SITE * wanted:
                break
            if other.mutation.place in used or not all(fits(other, part, sites) for part in parts):
                continue
            if self._is_worth_it(other):
                num_tried += 1
                if await self._is_killed(other):
                    parts.append(other)
        return tuple(parts)

    async def _is_killed(self, candidate: Reached) -> bool:
        mutant = await self._try((candidate,))
        self._note(mutant)
        return mutant.noticed.verdict == "killed"

    def _note(self, mutant: Mutant) -> None:
        """Count a mutant, once."""
        key = frozenset(part.mutation.key for part in mutant.parts)
        if key not in self._noted:
            self._noted.add(key)
            operators = [part.mutation.operator for part in mutant.parts]
            self.account.note(operators, mutant.noticed.verdict)

    def _is_worth_it(self, candidate: Reached) -> bool:
        """Say whether it is a program of its own, whose original stands nowhere else in the tree."""
        key = candidate.mutation.key
        if key not in self._reasons:
            self._reasons[key] = reason = self._drop_reason(candidate.mutation)
            if reason:
                self.account.skipped[reason] += 1
        return not self._reasons[key]

    def _drop_reason(self, mutation: Mutation) -> str:
        source = self.sources[mutation.path]
        new = source.edited([mutation.edit])
        if reason := drop_reason(source.data, new):
            return reason
        program = hashlib.sha256(new).hexdigest()
        if program in self._programs:
            return "the same as another"
        self._programs.add(program)
        return "the original stands elsewhere too" if self._is_copied(source, mutation) else ""

    def _is_copied(self, source: Source, mutation: Mutation) -> bool:
        """Say whether another file holds the lines around an edit, as a second copy of the module would."""
        start = source.line_start(max(mutation.line - _COPY_LINES, 1))
        end = source.line_start(source.line_of(mutation.edit.end) + _COPY_LINES + 1)
        around = source.text[start:end].encode()
        return any(path != source.path and around in data for path, data in self._contents.items())

    @cached_property
    def _contents(self) -> Mapping[str, bytes]:
        return {path: _read(self.snapshot, path) for path in self.snapshot.paths}

    async def _try(self, parts: tuple[Reached, ...]) -> Mutant:
        files = {
            path: self.sources[path].edited([p.mutation.edit for p in parts if p.mutation.path == path])
            for path in sorted({part.mutation.path for part in parts})
        }
        tests = frozenset[str]().union(*(part.tests for part in parts))
        return Mutant(parts, files, await self.harness.try_mutant(self.base, files, tests))

    def _keep(self, mutant: Mutant, sites: Sites) -> Mutant:
        self.account.kept.update(part.mutation.operator for part in mutant.parts)
        self.account.kept_by_sites[sites] += 1
        self.say(
            f"{self.account.project}: {self.account.kept_by_sites.total()} of {self.search.num_tasks} kept, "
            f"{self.account.tried.total()} mutants tried"
        )
        return mutant


def fits(candidate: Reached, other: Reached, sites: Sites) -> bool:
    """Say whether two sites go together: far enough from each other, and where such a task has them."""
    a, b = candidate.mutation, other.mutation
    if sites == "files":
        return a.path != b.path
    if a.path != b.path:
        return False
    if sites == "file":
        return a.qualname != b.qualname
    first, second = sorted((a, b), key=lambda mutation: mutation.edit)
    if second.edit.start < first.edit.end:  # such as a place inside a branch that is dropped
        return False
    return a.qualname == b.qualname and second.reach[0] - first.reach[1] > _MIN_GAP_LINES


def _read(snapshot: Snapshot, path: str) -> bytes:
    try:
        return snapshot.read_bytes(path)
    except FileNotFoundError:
        return b""  # a link that leads nowhere
