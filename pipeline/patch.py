"""Unified diffs that `git apply` takes, how much they change, and the smallest part of one that suffices."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from unidiff import PatchSet
from unidiff.errors import UnidiffParseError

from pipeline.core import Patch

_CONTEXT_LINES = 3
_NO_NEWLINE = b"\n\\ No newline at end of file\n"
_BINARY_CHUNK_BYTES = 52  # of one line of a git binary patch


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines `start` to `end` (from 0, end excluded) of the old file, and what stands there in the new one."""

    start: int
    end: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]


def hunks_of(old: bytes, new: bytes) -> tuple[Hunk, ...]:
    """Return the places where the files differ, in order; lines end at \\n, as git counts them."""
    before, after = _lines(old), _lines(new)
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
    lines = _lines(old)
    for hunk in sorted(hunks, key=lambda hunk: hunk.start, reverse=True):
        lines[hunk.start : hunk.end] = hunk.new
    return b"".join(lines)


def count_changed_lines(old: bytes, new: bytes) -> int:
    """Return the number of removed and added lines together."""
    return sum(len(hunk.old) + len(hunk.new) for hunk in hunks_of(old, new))


def unified_diff(path: str, old: bytes, new: bytes) -> str:
    """Return the change of one existing file as `git apply` takes it; empty when there is none.

    Where the shown lines are not UTF-8, which a `str` cannot carry unharmed, it is a git binary patch.
    """
    hunks = hunks_of(old, new)
    if not hunks:
        return ""
    body = b"".join(_format_groups(_lines(old), hunks))
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return _binary_diff(path, old, new)
    # git ends a name with a tab where it has a space, so that the name's end can be told.
    end = "\t\n" if " " in path else "\n"
    return f"diff --git a/{path} b/{path}\n--- a/{path}{end}+++ b/{path}{end}{text}"


def make_patch(candidate_id: str, path: str, old: bytes, new: bytes) -> Patch:
    """Return the patch that turns the old file into the new one."""
    diff = unified_diff(path, old, new)
    assert _is_well_formed(diff), "a diff of ours that unidiff cannot read"
    return Patch(
        diff=diff,
        candidate_id=candidate_id,
        paths=(path,),
        num_changed_lines=count_changed_lines(old, new),
    )


async def minimise(
    old: bytes, new: bytes, still_passes: Callable[[bytes], Awaitable[bool]], *, max_trials: int
) -> bytes:
    """Return the new file without the hunks that the tests do not need, after at most `max_trials` trials."""
    kept = list(hunks_of(old, new))
    for hunk in tuple(reversed(kept))[:max_trials]:
        if len(kept) == 1:
            break
        fewer = [other for other in kept if other is not hunk]
        if await still_passes(apply_hunks(old, fewer)):
            kept = fewer
    return apply_hunks(old, kept)


def _format_groups(lines: Sequence[bytes], hunks: Sequence[Hunk]) -> Iterator[bytes]:
    group: list[Hunk] = []
    shift = 0  # by how many lines the new file is ahead before this group
    for hunk in hunks:
        if group and hunk.start - group[-1].end > 2 * _CONTEXT_LINES:
            yield _format_group(lines, group, shift)
            shift += sum(len(h.new) - len(h.old) for h in group)
            group = []
        group.append(hunk)
    yield _format_group(lines, group, shift)


def _format_group(lines: Sequence[bytes], group: Sequence[Hunk], shift: int) -> bytes:
    start = max(group[0].start - _CONTEXT_LINES, 0)
    end = min(group[-1].end + _CONTEXT_LINES, len(lines))
    num_old = end - start
    num_new = num_old + sum(len(hunk.new) - len(hunk.old) for hunk in group)
    out = [b"@@ -%s +%s @@\n" % (_range(start, num_old), _range(start + shift, num_new))]
    position = start
    for hunk in group:
        out += [_marked(b" ", line) for line in lines[position : hunk.start]]
        out += [_marked(b"-", line) for line in hunk.old]
        out += [_marked(b"+", line) for line in hunk.new]
        position = hunk.end
    out += [_marked(b" ", line) for line in lines[position:end]]
    return b"".join(out)


def _range(start: int, num_lines: int) -> bytes:
    # An empty range names the line before it.
    return b"%d,%d" % (start + 1 if num_lines else start, num_lines)


def _marked(mark: bytes, line: bytes) -> bytes:
    return mark + line if line.endswith(b"\n") else mark + line + _NO_NEWLINE


def _binary_diff(path: str, old: bytes, new: bytes) -> str:
    return (
        f"diff --git a/{path} b/{path}\nindex {_blob_id(old)}..{_blob_id(new)}\nGIT binary patch\n"
        f"{_literal(new)}\n{_literal(old)}\n"
    )


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _literal(data: bytes) -> str:
    packed = zlib.compress(data)
    chunks = [packed[i : i + _BINARY_CHUNK_BYTES] for i in range(0, len(packed), _BINARY_CHUNK_BYTES)]
    rows = [_length_letter(len(chunk)) + base64.b85encode(chunk, pad=True).decode() for chunk in chunks]
    return f"literal {len(data)}\n" + "\n".join(rows) + "\n"


def _length_letter(num_bytes: int) -> str:
    return chr(ord("A") + num_bytes - 1) if num_bytes <= 26 else chr(ord("a") + num_bytes - 27)


def _is_well_formed(diff: str) -> bool:
    if not diff or "\nGIT binary patch\n" in diff:
        return True
    try:
        return len(PatchSet(diff)) == 1
    except UnidiffParseError:
        return False


def _lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _common_prefix(first: Sequence[bytes], second: Sequence[bytes]) -> int:
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
