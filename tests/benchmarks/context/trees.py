"""The trees of the localisation benchmark's cases: a source distribution with a bug or a needle in it."""

from __future__ import annotations

from unidiff import PatchedFile, PatchSet

from pipeline.bench.sources import Library
from pipeline.snapshot import Snapshot
from tests.benchmarks.context.cases import Case


def tree_of(case: Case, library: Library) -> Snapshot:
    """Return a case's tree, its source fetched where it is not there yet.

    Raises:
        InputError: the source cannot be had.
        ValueError: the diff is not one of this source.
    """
    source = library.tree(case.source)
    changed = {path: _added(source, path, text) for path, text in case.added.items()}
    changed |= {file.path: _patched(source, file) for file in PatchSet(case.diff)}
    return source.with_files(changed)


def _added(source: Snapshot, path: str, text: str) -> bytes:
    return source.read_bytes(path).rstrip() + b"\n" + text.encode()


def _patched(source: Snapshot, file: PatchedFile) -> bytes:
    lines = source.read_bytes(file.path).decode().splitlines(keepends=True)
    for hunk in reversed(file):
        start, before = hunk.source_start - 1, [line.value for line in hunk.source_lines()]
        if lines[start : start + len(before)] != before:
            raise ValueError(f"{file.path} line {hunk.source_start} is not what the diff says")
        lines[start : start + len(before)] = [line.value for line in hunk.target_lines()]
    return "".join(lines).encode()
