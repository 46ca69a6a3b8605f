"""Chooses one of several tests that show an issue: what most drafts agree on, in its shortest form."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.reproduce.answer import TestDraft


@dataclass(frozen=True, slots=True)
class Kept:
    """A test that fails on the base for the right reason."""

    draft: TestDraft
    signature: str  # of its failure


def choose(kept: Sequence[Kept], statement: str) -> Kept | None:
    """Return the smallest test of the best cluster, or None where nothing is kept.

    A cluster are tests that fail in the same way. The best has the most tests; of equally large ones, that
    whose values the issue itself gives.
    """
    clusters: dict[str, list[Kept]] = defaultdict(list)
    for one in kept:
        clusters[one.signature].append(one)
    best = max(
        clusters.values(),
        key=lambda cluster: (len(cluster), max(grounding(one.draft, statement) for one in cluster)),
        default=[],
    )
    return min(best, key=lambda one: (len(one.draft.function), one.draft.function), default=None)


def grounding(draft: TestDraft, statement: str) -> float:
    """Return the share of the test's values and calls that stand in the issue, from 0 to 1."""
    said = statement.replace('"', "'")
    words = frozenset(re.findall(r"[\w.]+", said))
    values = [node.value for node in ast.walk(ast.parse(draft.function)) if isinstance(node, ast.Constant)]
    marks = {repr(value) for value in values if value not in (None, True, False, "", 0, 1)} | set(draft.calls)
    found = [mark for mark in marks if mark in words or (mark.startswith("'") and mark.strip("'") in said)]
    return len(found) / len(marks) if marks else 0.0
