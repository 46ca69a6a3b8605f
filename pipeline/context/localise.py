"""Rank the definitions that may hold the fault: traceback, coverage, names in the failing test, BM25.

This is the deterministic tier with a flat reading of the tree; what a recursive one found joins it here.
"""

from __future__ import annotations

import builtins
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from rank_bm25 import BM25Okapi

from pipeline.context.call_graph import CallGraph, Source, tie_broken
from pipeline.context.failures import Evidence, definition_of_test, frames, is_test_path
from pipeline.context.symbols import Definition, called_names, definitions, identifiers, source_lines, words
from pipeline.core import Suspect, TestCase
from pipeline.exceptions import InputError
from pipeline.snapshot import Snapshot
from pipeline.unwritten import is_unwritten, says_unwritten

# Weights say how much one kind of evidence counts against another; a full BM25 score is 1.
_TRACEBACK, _CALLED, _NAMED, _CALLEE, _STATEMENT = 3.0, 2.0, 1.0, 0.75, 1.0
_COVERED, _NOT_COVERED = 0.5, 0.05  # added; factor: a function that no failing test ran is hardly the fault
_SPECTRUM = 6.0  # times the highest Ochiai of a line of the body: of one, only failing tests run it
_NAMES_BESIDE_SPECTRUM = 0.5  # factor: what failing tests call, passing ones mostly call as well
_UNWRITTEN = 20.0  # a function without a body that failing tests reach: nothing else can be said before it
_BUILTINS = frozenset(dir(builtins))
_MAX_SOURCE_BYTES = 1 << 20  # a larger file is generated or data


def localise(
    snapshot: Snapshot,
    evidence: Evidence,
    *,
    num_suspects: int | None = None,
    judgements: Mapping[str, float] | None = None,
) -> tuple[Suspect, ...]:
    """Return the most suspicious functions, best first, each with the evidence against it.

    Tests, documentation and set-up files are never suspects. A tree without a single function gives none.
    Without a number all come that anything speaks against. `judgements` say what a model's judgement adds to
    the score of a `path::qualname`; with them, of equals, what a higher ranked one calls comes first.
    """
    corpus = _corpus(snapshot)
    if not corpus:
        return ()
    board = _board(snapshot, corpus, evidence, judgements or {})
    order = [d for d in board.best_first() if board.scores[d] > 0]
    if judgements and num_suspects:
        order = _tie_broken(order[: 2 * num_suspects], board, snapshot)  # the rest is not looked at
    return tuple(map(board.suspect, order[:num_suspects]))


def _tie_broken(order: Sequence[Definition], board: _Board, snapshot: Snapshot) -> list[Definition]:
    by_key = {f"{d.path}:{d.start_line}": d for d in order}

    def source_of(key: str) -> Source:
        definition = by_key[key]
        return Source(definition.path, definition.name, _source(snapshot, definition))

    graph = CallGraph(source_of, snapshot.read_bytes)
    scores = {key: board.scores[definition] for key, definition in by_key.items()}
    return [by_key[key] for key in tie_broken(list(by_key), scores, graph.nearness)]


def _board(
    snapshot: Snapshot, corpus: Sequence[Definition], evidence: Evidence, judgements: Mapping[str, float]
) -> _Board:
    board = _Board(corpus)
    sources = {d: _source(snapshot, d) for d in corpus}
    _add_tracebacks(board, snapshot, evidence.failures)
    _add_names(board, snapshot, evidence, sources)
    _add_bm25(board, _query(snapshot, evidence), sources)
    _add_judgements(board, judgements)
    _apply_coverage(board, evidence)
    _add_unwritten(board, sources, evidence)
    return board


def named_suspects(snapshot: Snapshot, places: Sequence[str]) -> tuple[Suspect, ...]:
    """Return the functions that a task names as `path::qualname`, in its order.

    Raises:
        InputError: there is no such function.
    """
    known = {f"{d.path}::{d.qualname}": d for d in _corpus(snapshot)}
    missing = [place for place in places if place not in known]
    if missing:
        near = get_close_matches(missing[0], known, n=1)
        raise InputError(
            f"the tree has no function {missing[0]}",
            hint=f"did you mean {near[0]}?" if near else "give it as path/to/file.py::Class.method",
        )
    board = _Board([known[place] for place in places])
    for definition in board.corpus:
        board.add(definition, 1.0, "named by the task")
        if is_unwritten(_source(snapshot, definition)):
            board.unwritten.add(definition)
    return tuple(board.suspect(definition) for definition in board.corpus)


class _Board:
    """Scores and reasons, by definition."""

    def __init__(self, corpus: Sequence[Definition]) -> None:
        self.corpus = corpus
        self.scores: dict[Definition, float] = dict.fromkeys(corpus, 0.0)
        self.reasons: dict[Definition, list[str]] = defaultdict(list)
        self.num_namesakes = Counter(definition.name for definition in corpus)
        self.unwritten: set[Definition] = set()

    def add(self, definition: Definition, score: float, reason: str) -> None:
        self.scores[definition] += score
        self.reasons[definition].append(reason)

    def at(self, path: str, line: int) -> Definition | None:
        return next((d for d in self.corpus if d.path == path and d.start_line <= line <= d.end_line), None)

    def best_first(self) -> list[Definition]:
        # Ties go to the earlier place in the tree, so that equal input ranks equally.
        return sorted(self.corpus, key=lambda d: (-self.scores[d], d.path, d.start_line))

    def suspect(self, definition: Definition) -> Suspect:
        return Suspect(
            path=definition.path,
            qualname=definition.qualname,
            start_line=definition.start_line,
            end_line=definition.end_line,
            score=round(self.scores[definition], 4),
            evidence=tuple(self.reasons[definition]),
            is_unwritten=definition in self.unwritten,
        )


def _corpus(snapshot: Snapshot) -> list[Definition]:
    found: list[Definition] = []
    for path in snapshot.python_paths:
        if is_test_path(path):
            continue
        try:
            source = snapshot.read_bytes(path)
        except FileNotFoundError:
            continue  # a link out of the tree
        if len(source) <= _MAX_SOURCE_BYTES:
            found += [d for d in definitions(path, source) if d.kind == "function" or _is_planned(d, source)]
    return found


def _is_planned(definition: Definition, source: bytes) -> bool:
    """Say whether a class is to be written as a whole."""
    lines = source_lines(source)[definition.start_line - 1 : definition.end_line]
    return says_unwritten("\n".join(lines))


def _source(snapshot: Snapshot, definition: Definition) -> str:
    lines = source_lines(snapshot.read_bytes(definition.path))
    return "\n".join(lines[definition.start_line - 1 : definition.end_line])


def _add_tracebacks(board: _Board, snapshot: Snapshot, failures: Iterable[TestCase]) -> None:
    """Count the deepest frame in full and each one above it for less, once per definition."""
    best: dict[Definition, tuple[float, str]] = {}
    for case in failures:
        hits = [board.at(path, line) for path, line in frames(case.details, snapshot)]
        for height, definition in enumerate(reversed([hit for hit in hits if hit is not None])):
            score = _TRACEBACK * 0.7**height
            if score > best.get(definition, (0.0, ""))[0]:
                best[definition] = (score, f"traceback, {height} above the deepest frame")
    for definition, (score, reason) in best.items():
        board.add(definition, score, reason)


def _add_names(
    board: _Board, snapshot: Snapshot, evidence: Evidence, sources: Mapping[Definition, str]
) -> None:
    """Count what the failing tests call, what that calls in turn, and names that the issue mentions."""
    tests = _test_sources(snapshot, evidence.failures)
    called = frozenset().union(*(called_names(text.encode()) for text in tests))
    mentioned = frozenset().union(*(identifiers(text) for text in tests))
    in_statement = identifiers(evidence.statement)
    factor = _NAMES_BESIDE_SPECTRUM if evidence.suspicion else 1.0
    callees: set[str] = set()
    for definition in board.corpus:
        # One common name ("get") must not outweigh a traceback, so many namesakes share the weight.
        share = factor / board.num_namesakes[definition.name]
        owner = definition.parent.rpartition(".")[2]
        if definition.name in called or (definition.name == "__init__" and owner in called):
            board.add(definition, _CALLED * share, "called by a failing test")
            callees |= called_names(sources[definition].encode())
        elif definition.name in mentioned:
            board.add(definition, _NAMED * share, "named in a failing test")
        if definition.name in in_statement and len(definition.name) > 3:
            board.add(definition, _STATEMENT, "named in the issue")
    for definition in board.corpus:
        if definition.name in callees and definition.name not in called:
            share = factor / board.num_namesakes[definition.name]
            board.add(definition, _CALLEE * share, "called by what a test calls")


def _test_sources(snapshot: Snapshot, failures: Iterable[TestCase]) -> list[str]:
    found = (definition_of_test(case.test_id, snapshot) for case in failures)
    return [_source(snapshot, definition) for definition in dict.fromkeys(found) if definition is not None]


def _query(snapshot: Snapshot, evidence: Evidence) -> str:
    messages = [case.message for case in evidence.failures]
    # A command that reports no tests has only its output to speak for it.
    messages += [case.details for case in evidence.failures if "::" not in case.test_id]
    return "\n".join([*_test_sources(snapshot, evidence.failures), *messages, evidence.statement])


def _add_bm25(board: _Board, query: str, sources: Mapping[Definition, str]) -> None:
    documents = [words(f"{d.path} {d.qualname} {d.name} {sources[d]}") or ["_"] for d in board.corpus]
    scores = BM25Okapi(documents).get_scores(sorted(set(words(query))))
    highest = max(scores)
    if highest <= 0:
        return
    for definition, score in zip(board.corpus, scores, strict=True):
        if score > 0:
            board.add(definition, float(score / highest), f"BM25 {score / highest:.2f} of the best")


def _add_judgements(board: _Board, judgements: Mapping[str, float]) -> None:
    for definition in board.corpus:
        if judgement := judgements.get(f"{definition.path}::{definition.qualname}"):
            board.add(definition, judgement, f"the model's judgement {judgement:+.2f}")


def _apply_coverage(board: _Board, evidence: Evidence) -> None:
    if not evidence.covered:
        return
    for definition in board.corpus:
        # The def line itself runs at import: only a line of the body is evidence.
        ran = [n for n in evidence.covered.get(definition.path, ()) if _is_in_body(definition, n)]
        if not ran:
            board.scores[definition] *= _NOT_COVERED
            continue
        board.add(definition, _COVERED, "run by a failing test")
        suspicion = evidence.suspicion.get(definition.path, {})
        if worst := max(suspicion.get(n, 0.0) for n in ran):
            board.add(definition, _SPECTRUM * worst, f"Ochiai {worst:.2f}")


def _is_in_body(definition: Definition, line: int) -> bool:
    return definition.body_line <= line <= definition.end_line and line > definition.def_line


def _add_unwritten(board: _Board, sources: Mapping[Definition, str], evidence: Evidence) -> None:
    """Put functions without a body first, where failing tests run them.

    A body that is merely empty may be meant so: it counts where the task is to implement something.
    """
    missing = is_unwritten if evidence.implements else says_unwritten
    for definition in board.corpus:
        if _is_run(definition, board.reasons[definition], evidence) and missing(sources[definition]):
            board.add(definition, _UNWRITTEN, "not written yet")
            board.unwritten.add(definition)


def _is_run(definition: Definition, reasons: Sequence[str], evidence: Evidence) -> bool:
    """Say whether a failing test runs it: the name alone may be that of a method which overrides it."""
    if any(reason.startswith(("traceback", "run by")) for reason in reasons):
        return True
    # Of a docstring no line runs, and without coverage none can be told.
    leaves_no_trace = definition.doc_end_line == definition.end_line or not evidence.covered
    leaves_no_trace = leaves_no_trace and definition.name not in _BUILTINS  # `len` is hardly this one
    called = any(reason.startswith("called by") for reason in reasons)
    return evidence.implements and leaves_no_trace and called
