"""Ranks units by words alone: BM25 over identifiers, documentation and paths, and what a query points at.

This is the prior of every tier, and the whole ranking where no model is asked.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rank_bm25 import BM25Okapi

from pipeline.context.symbols import words
from pipeline.context.units import Unit

# How much each kind of pointer counts; the best BM25 score of a query is 1. Chosen on the development part of
# tests/benchmarks/context, where names that are merely called, compound words and quoted messages did harm.
_FRAME, _FRAME_ABOVE = 1.0, 0.7  # the deepest frame of a traceback; of each one above it the share
_QUOTED = 1.0  # a name in back ticks
# "path.py:12" of pytest, Go and Rust; 'File "path.py", line 12' of Python; "(path.js:12:3)" of JavaScript.
_FRAME_LINE = re.compile(r'([\w./@+-]+\.\w{1,5})(?::|", line )(\d{1,6})\b')
_QUOTED_NAME = re.compile(r"`([^`\n]{2,80})`")


@dataclass(frozen=True, slots=True)
class Ranked:
    """A unit, its score and why."""

    unit: Unit
    score: float
    evidence: tuple[str, ...]


class BM25(BM25Okapi):
    """BM25 with Lucene's idf: the classic one is zero or less for a word that half of the units have."""

    def _calc_idf(self, nd: dict[str, int]) -> None:
        num = self.corpus_size
        self.idf = {word: math.log(1 + (num - count + 0.5) / (count + 0.5)) for word, count in nd.items()}


class LexicalIndex:
    """The words of units, counted once for many queries."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self.units: Sequence[Unit] = tuple(units)
        self._bm25 = BM25([_terms(unit) for unit in self.units]) if self.units else None
        self._by_name: dict[str, list[int]] = defaultdict(list)
        self._by_path: dict[str, list[int]] = defaultdict(list)
        for number, unit in enumerate(self.units):
            self._by_path[unit.node.path].append(number)
            if unit.name:
                self._by_name[unit.name].append(number)

    def ranked(self, query: str, *, with_pointers: bool = True) -> list[Ranked]:
        """Return all units with a score, best first. `with_pointers=False` is BM25 alone."""
        scores, why = self._bm25_scores(query)
        if with_pointers:
            self._add_frames(query, scores, why)
            self._add_names(query, scores, why)
        order = sorted((n for n, score in scores.items() if score > 0), key=lambda n: (-scores[n], n))
        return [Ranked(self.units[n], scores[n], tuple(why[n])) for n in order]

    def _bm25_scores(self, query: str) -> tuple[dict[int, float], dict[int, list[str]]]:
        scores: dict[int, float] = defaultdict(float)
        why: dict[int, list[str]] = defaultdict(list)
        terms = sorted(set(words(query)))
        if self._bm25 is None or not terms:
            return scores, why
        found = self._bm25.get_scores(terms)
        highest = float(found.max())
        for n, score in enumerate(found):
            if highest > 0 and score > 0:
                scores[n] = float(score) / highest
                why[n].append(f"BM25 {scores[n]:.2f} of the best")
        return scores, why

    def _add_frames(self, query: str, scores: dict[int, float], why: dict[int, list[str]]) -> None:
        heights: dict[int, int] = {}
        for traceback in self._tracebacks(query):
            for height, number in enumerate(reversed(traceback)):
                heights[number] = min(height, heights.get(number, height))
        for number, height in heights.items():
            scores[number] += _FRAME * _FRAME_ABOVE**height
            why[number].append(f"traceback, {height} above the deepest frame")

    def _tracebacks(self, query: str) -> Iterator[list[int]]:
        """Yield the units of frames that follow each other; a frame of a test, say, ends a sequence."""
        found: list[int] = []
        for path, line in _FRAME_LINE.findall(query):
            units = self._at(path, int(line))
            if not units and found:
                yield found
                found = []
            found += units
        yield found

    def _at(self, path: str, line: int) -> list[int]:
        path = path.removeprefix("/workspace/").removeprefix("./")
        numbers = self._by_path.get(path, ())
        return [n for n in numbers if self.units[n].node.start_line <= line <= self.units[n].node.end_line]

    def _add_names(self, query: str, scores: dict[int, float], why: dict[int, list[str]]) -> None:
        for name in {_last(quoted) for quoted in _QUOTED_NAME.findall(query)}:
            numbers = self._by_name.get(name, ())
            for number in numbers:  # a common name says little: namesakes share the weight
                scores[number] += _QUOTED / len(numbers)
                why[number].append("named in the query")


def _terms(unit: Unit) -> list[str]:
    return words(f"{unit.node.path} {unit.node.qualname} {unit.name} {unit.text}") or ["_"]


def _last(name: str) -> str:
    return name.strip().rstrip("()").rpartition(".")[2]
