"""Ranks units by words alone: BM25 over identifiers, documentation and paths, and what a query points at.

This is the prior of every tier, and the whole ranking where no model is asked.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rank_bm25 import BM25Okapi

from pipeline.context.symbols import words
from pipeline.context.units import Unit

# How much each kind of pointer counts; the best BM25 score of a query is 1.
_FRAME, _FRAME_ABOVE = 3.0, 0.7  # the deepest frame of a traceback; of each one above it the share
_QUOTED, _NAMED = 2.0, 1.0  # in back ticks or called; an identifier of several words that stands in the text
_LITERAL = 1.0  # a message that the unit's source has word by word
_MIN_LITERAL_CHARS = 12
# "path.py:12" of pytest, Go and Rust; 'File "path.py", line 12' of Python; "(path.js:12:3)" of JavaScript.
_FRAME_LINE = re.compile(r'([\w./@+-]+\.\w{1,5})(?::|", line )(\d{1,6})\b')
_QUOTED_NAME = re.compile(r"`([^`\n]{2,80})`|\b([A-Za-z_][\w.]{2,80})\(")
_COMPOUND = re.compile(r"\b(?:[a-z0-9]+_[a-z0-9_]+|_\w{3,}|[A-Za-z][a-z0-9]+[A-Z]\w+)\b")
_MESSAGE = re.compile(r"\b\w*(?:Error|Exception|Warning): (.+)$|[\"']([^\"'\n]{12,200})[\"']", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A unit, its score and why."""

    unit: Unit
    score: float
    evidence: tuple[str, ...]


class LexicalIndex:
    """The words of units, counted once for many queries."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self.units: Sequence[Unit] = tuple(units)
        self._bm25 = BM25Okapi([_terms(unit) for unit in self.units]) if self.units else None
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
            self._add_literals(query, scores, why)
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
        hits = [hit for path, line in _FRAME_LINE.findall(query) for hit in self._at(path, int(line))]
        best: dict[int, int] = {}
        for height, number in enumerate(reversed(hits)):
            best.setdefault(number, height)
        for number, height in best.items():
            scores[number] += _FRAME * _FRAME_ABOVE**height
            why[number].append(f"traceback, {height} above the deepest frame")

    def _at(self, path: str, line: int) -> list[int]:
        path = path.removeprefix("/workspace/").removeprefix("./")
        numbers = self._by_path.get(path, ())
        return [n for n in numbers if self.units[n].node.start_line <= line <= self.units[n].node.end_line]

    def _add_names(self, query: str, scores: dict[int, float], why: dict[int, list[str]]) -> None:
        quoted = {_last(one or other) for one, other in _QUOTED_NAME.findall(query)}
        named = set(_COMPOUND.findall(query)) - quoted
        for names, weight, reason in ((quoted, _QUOTED, "quoted"), (named, _NAMED, "named")):
            for name in names:
                numbers = self._by_name.get(name, ())
                for number in numbers:  # a common name says little: namesakes share the weight
                    scores[number] += weight / len(numbers)
                    why[number].append(f"{reason} in the query")

    def _add_literals(self, query: str, scores: dict[int, float], why: dict[int, list[str]]) -> None:
        literals = {(one or other).strip() for one, other in _MESSAGE.findall(query)}
        for literal in literals:
            if len(literal) < _MIN_LITERAL_CHARS:
                continue
            numbers = [n for n, unit in enumerate(self.units) if literal in unit.text]
            for number in numbers:
                scores[number] += _LITERAL / len(numbers)
                why[number].append("has a text of the query")


def _terms(unit: Unit) -> list[str]:
    return words(f"{unit.node.path} {unit.node.qualname} {unit.name} {unit.text}") or ["_"]


def _last(name: str) -> str:
    return name.strip().rstrip("()").rpartition(".")[2]
