"""How a benchmark came about, in numbers: what was tried and kept of each repository and operator."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from pipeline.bench.operators import OPERATORS
from pipeline.bench.recipe import injected
from pipeline.bench.workshop import Account
from pipeline.core import Task

_VERDICTS = ("killed", "survived", "flaky", "hangs", "trivial")


def account_json(accounts: Sequence[Account], tasks: Sequence[Task]) -> str:
    """Return the account of every source as JSON."""
    values: dict[str, Any] = {
        "num_tasks": len(tasks),
        "split": Counter(injected(task).split for task in tasks),
        # Not asdict: it makes a counter of the pairs of a counter.
        "sources": [{f.name: getattr(account, f.name) for f in fields(account)} for account in accounts],
    }
    return json.dumps(values, indent=1) + "\n"


def account_table(accounts: Sequence[Account], tasks: Sequence[Task]) -> str:
    """Return the account as Markdown: a table of the repositories and one of the operators."""
    return "\n".join([*_repositories(accounts, tasks), "", *_operators(accounts, tasks)])


def _repositories(accounts: Sequence[Account], tasks: Sequence[Task]) -> Iterator[str]:
    head = ("repository", "split", "tests", "places", "mutants", *_VERDICTS, "tasks", "of several sites")
    yield _row(head)
    yield _row(["---"] * len(head))
    for account in accounts:
        own = [task for task in tasks if injected(task).recipe.source.project == account.project]
        several = sum(injected(task).recipe.sites != "single" for task in own)
        split = injected(own[0]).split if own else "-"
        counts = [account.tried[verdict] for verdict in _VERDICTS]
        cells = [account.project, split, account.num_passing_tests, account.num_found, account.tried.total()]
        yield _row([*cells, *counts, len(own), several])


def _operators(accounts: Sequence[Account], tasks: Sequence[Task]) -> Iterator[str]:
    yield _row(("operator", "tried", *_VERDICTS, "in tasks"))
    yield _row(["---"] * (len(_VERDICTS) + 3))
    kept = Counter(operator for task in tasks for operator in injected(task).recipe.operators)
    for name in OPERATORS:
        tried = sum((account.tried_by_operator.get(name, Counter()) for account in accounts), Counter[str]())
        if not tried:
            continue
        yield _row([f"`{name}`", tried.total(), *(tried[verdict] for verdict in _VERDICTS), kept[name]])


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
