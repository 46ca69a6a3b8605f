"""Makes the tasks of one source: bugs that its tests notice, and notice in the same way each time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.bench.harness import Harness, Noticed
from pipeline.bench.recipe import Injected, Origin, Place, Recipe, Sites, Split
from pipeline.bench.source import Source
from pipeline.bench.sources import Library
from pipeline.bench.workshop import Account, Mutant, Say, Search, Workshop
from pipeline.core import Task
from pipeline.exceptions import InputError
from pipeline.patch import unified_diff
from pipeline.protocols import EnvironmentBuilder, Sandbox

_MAX_LISTED_TESTS = 60  # of pass_to_pass; more are "whatever passes on the base", which means the same
_MAX_NAMED_TESTS = 5  # in a statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a source is used."""

    search: Search
    test_command: str = "python -m pytest"
    statement: Literal["none", "symptom"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What fetches sources and runs tests."""

    library: Library
    sandbox: Sandbox
    environments: EnvironmentBuilder
    ledger: Path  # finished sandbox runs


async def make_tasks(
    origin: Origin, split: Split, tools: Tools, options: Options, say: Say
) -> tuple[list[Task], Account]:
    """Return the tasks of one source, always the same for a seed, and the account of how they were found.

    Raises:
        InputError: its tests cannot be used, or they notice no bug.
        EnvironmentBrokenError: its environment or the sandbox failed.
    """
    snapshot = await asyncio.to_thread(tools.library.tree, origin)
    if not snapshot.python_paths:
        raise InputError(f"{origin.project} holds no Python file")
    say(f"{origin.project}: preparing its environment")
    environment = await tools.environments.prepare(snapshot.root)
    harness = Harness(
        snapshot, environment, tools.sandbox, test_command=options.test_command, ledger=tools.ledger
    )
    say(f"{origin.project}: running its tests, also under coverage")
    base = await harness.base()
    account = Account(
        project=origin.project,
        num_passing_tests=len(base.passing),
        num_failing_tests=base.num_failing,
        num_flaky_tests=base.num_flaky,
    )
    workshop = await asyncio.to_thread(Workshop.opened, snapshot, base, harness, options.search, account, say)
    mutants = [mutant async for mutant in workshop.mutants()]
    if not mutants:
        raise InputError(
            f"{origin.project}: its tests notice none of {account.tried.total()} bugs that were tried"
            f" ({account.num_found} places are reached by a test)",
            hint="a suite with more assertions, or another --test-command, may notice more",
        )
    writer = _Writer(origin, split, options, harness, workshop.sources)
    return [writer.task(mutant) for mutant in mutants], account


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes down mutants as tasks."""

    origin: Origin
    split: Split
    options: Options
    harness: Harness
    sources: Mapping[str, Source]

    def task(self, mutant: Mutant) -> Task:
        """Return the task of a mutant."""
        diff = "".join(unified_diff(p, self.sources[p].data, data) for p, data in mutant.files.items())
        recipe = Recipe(
            source=self.origin,
            diff=diff,
            sha256_by_path={p: hashlib.sha256(data).hexdigest() for p, data in mutant.files.items()},
            operators=tuple(part.mutation.operator for part in mutant.parts),
            sites=_sites_of(mutant),
            seed=self.options.search.seed,
        )
        metadata = Injected(
            split=self.split, recipe=recipe, gold=tuple(_places(mutant, self.sources))
        ).model_dump(mode="json")
        noticed, tests = mutant.noticed, frozenset[str]().union(*(part.tests for part in mutant.parts))
        task_id = (
            f"{self.origin.project}-{hashlib.sha256(diff.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
        )
        return Task(
            task_id=task_id,
            repo=f"{task_id}/repo",
            statement=_statement(noticed) if self.options.statement == "symptom" else "",
            test_command=self.harness.narrowed(tests),
            fail_to_pass=noticed.failing,
            pass_to_pass=noticed.passing if len(noticed.passing) <= _MAX_LISTED_TESTS else (),
            metadata=metadata,
        )


def _sites_of(mutant: Mutant) -> Sites:
    if len(mutant.parts) == 1:
        return "single"
    if len(mutant.files) > 1:
        return "files"
    return "file" if len(mutant.functions) > 1 else "function"


def _places(mutant: Mutant, sources: Mapping[str, Source]) -> list[Place]:
    """Return where the bugs stand, in lines of the changed files."""
    places = []
    for path, data in mutant.files.items():
        changed, shift = Source(path, data), 0
        parts = sorted((p.mutation for p in mutant.parts if p.mutation.path == path), key=lambda m: m.edit)
        for mutation in parts:
            start = mutation.edit.start + shift
            first = changed.line_of(start)
            last = max(changed.line_of(start + max(len(mutation.edit.text) - 1, 0)), first)
            places.append(Place(function=mutation.place, lines=(first, last)))
            shift += len(mutation.edit.text) - (mutation.edit.end - mutation.edit.start)
    return places


def _statement(noticed: Noticed) -> str:
    """Return what somebody might write who saw the tests fail and nothing of the code."""
    shown = "\n".join(f"- {test_id}" for test_id in noticed.failing[:_MAX_NAMED_TESTS])
    more = (
        f"\n- and {len(noticed.failing) - _MAX_NAMED_TESTS} more"
        if len(noticed.failing) > _MAX_NAMED_TESTS
        else ""
    )
    symptom = f"\n\nThe first ends with: {noticed.symptom}" if noticed.symptom else ""
    return f"These tests fail:\n\n{shown}{more}{symptom}"
