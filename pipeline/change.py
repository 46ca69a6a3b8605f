"""What a candidate changes: the lines that it replaces in one or more files of the base.

Changes of several candidates can be laid into one where they touch different lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines `start` to `end` (from 0, end excluded) of the old file, and what stands there in the new one."""

    start: int
    end: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FileChange:
    """What changes in one existing file. Hunks are in order and do not touch each other's lines."""

    path: str
    hunks: tuple[Hunk, ...]


Change = tuple[FileChange, ...]  # one for each file, by path


def change_between(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Change:
    """Return how the files of `new` differ from those of `old`; both name the same paths."""
    found = ((path, hunks_of(old[path], new[path])) for path in sorted(new))
    return tuple(FileChange(path, hunks) for path, hunks in found if hunks)


def apply_change(change: Change, read: Callable[[str], bytes]) -> dict[str, bytes]:
    """Return the changed files, whole; `read` gives a file of the base."""
    return {part.path: apply_hunks(read(part.path), part.hunks) for part in change}


def merged(changes: Sequence[Change]) -> Change | None:
    """Return all changes as one, or None where two of them want the same lines to be different things."""
    hunks: dict[str, set[Hunk]] = {}
    for part in (part for change in changes for part in change):
        hunks.setdefault(part.path, set()).update(part.hunks)
    parts = [FileChange(path, tuple(sorted(hunks[path], key=_place))) for path in sorted(hunks)]
    clash = any(_overlaps(*both) for part in parts for both in pairwise(part.hunks))
    return None if clash else tuple(parts)


def num_changed_lines(change: Change) -> int:
    """Return the number of removed and added lines together."""
    return sum(len(hunk.old) + len(hunk.new) for part in change for hunk in part.hunks)


def hunks_of(old: bytes, new: bytes) -> tuple[Hunk, ...]:
    """Return the places where the files differ, in order; lines end at \\n, as git counts them."""
    before, after = lines_of(old), lines_of(new)
    head = _common_prefix(before, after)
    tail = _common_prefix(before[head:][::-1], after[head:][::-1])
    middle, replacement = before[head : len(before) - tail], after[head : len(after) - tail]
    # Without autojunk, which makes large diffs of long files; the trimming above keeps it quick.
    opcodes = SequenceMatcher(None, middle, replacement, autojunk=False).get_opcodes()
    return tuple(
        Hunk(head + i1, head + i2, tuple(middle[i1:i2]), tuple(replacement[j1:j2]))
        for tag, i1, i2, j1, j2 in opcodes
        if tag != "equal"
    )


def apply_hunks(old: bytes, hunks: Sequence[Hunk]) -> bytes:
    """Return the old file with these of its hunks applied."""
    lines, new, position = lines_of(old), list[bytes](), 0
    for hunk in sorted(hunks, key=_place):  # stable: insertions at one place keep their order
        new += [*lines[position : hunk.start], *hunk.new]
        position = max(position, hunk.end)
    return b"".join([*new, *lines[position:]])


def lines_of(data: bytes) -> list[bytes]:
    """Return the lines as git counts them, with their \\n."""
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _place(hunk: Hunk) -> tuple[int, int]:
    return hunk.start, hunk.end


def _overlaps(earlier: Hunk, later: Hunk) -> bool:
    # Where an insertion touches another hunk, which of them comes first would be a guess.
    inserts = earlier.start == earlier.end or later.start == later.end
    return later.start < earlier.end or (later.start == earlier.end and inserts)


def _common_prefix(first: Sequence[bytes], second: Sequence[bytes]) -> int:
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
