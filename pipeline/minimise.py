"""The smallest part of a change that the tests still accept: without needless files, hunks and statements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from pipeline.change import Change, FileChange, Hunk

_MIN_SIMILARITY = 0.6  # two lines that are more alike than this are one line, changed
_MAX_ALIGNED = 30  # lines of one side of a hunk; a longer one is taken or left as a whole

_Part = tuple[str, Hunk]  # a hunk, or a piece of one, and its file


async def minimise(
    change: Change,
    still_passes: Callable[[Change], Awaitable[bool]],
    *,
    is_sound: Callable[[Change], bool],
    max_trials: int,
) -> Change:
    """Return the change without what the tests do not need, after at most `max_trials` runs of them.

    Whole files are left out first, then hunks, then statements within a hunk. `is_sound` costs nothing: what
    it refuses is no trial. The change never becomes empty.
    """
    search = _Search([(part.path, hunk) for part in change for hunk in part.hunks], is_sound, max_trials)
    for file in reversed(change):
        await search.leave_out([part for part in search.kept if part[0] == file.path], still_passes)
    for part in reversed(search.kept):
        await search.leave_out([part], still_passes)
    search.kept = [(path, piece) for path, hunk in search.kept for piece in pieces(hunk)]
    for group in list(_statements(search.kept)):
        await search.leave_out(group, still_passes)
    return _change_of(search.kept)


def pieces(hunk: Hunk) -> tuple[Hunk, ...]:
    """Return what the hunk consists of: lines that were changed, that went, that came.

    Lines that make place for quite other ones are one piece with them. Together the pieces do what it does.
    """
    if max(len(hunk.old), len(hunk.new)) > _MAX_ALIGNED:
        return (hunk,)
    found: list[Hunk] = []
    i = j = 0
    for a, b in (*_pairs(hunk.old, hunk.new), (len(hunk.old), len(hunk.new))):
        found += _between(hunk, slice(i, a), slice(j, b))
        if a < len(hunk.old) and hunk.old[a] != hunk.new[b]:
            found.append(Hunk(hunk.start + a, hunk.start + a + 1, (hunk.old[a],), (hunk.new[b],)))
        i, j = a + 1, b + 1
    return tuple(found)


def _between(hunk: Hunk, old: slice, new: slice) -> list[Hunk]:
    """Return the pieces of lines that have no counterpart."""
    start, gone, come = hunk.start + old.start, hunk.old[old], hunk.new[new]
    if gone and come:
        return [Hunk(start, start + len(gone), gone, come)]
    return [
        *(Hunk(start + n, start + n + 1, (line,), ()) for n, line in enumerate(gone)),
        *(Hunk(start, start, (), (line,)) for line in come),
    ]


@dataclass
class _Search:
    kept: list[_Part]
    is_sound: Callable[[Change], bool]
    max_trials: int
    tried: set[Change] = field(default_factory=set)

    async def leave_out(
        self, parts: Collection[_Part], still_passes: Callable[[Change], Awaitable[bool]]
    ) -> None:
        """Drop these parts where the tests pass without them."""
        fewer = [part for part in self.kept if part not in parts]
        change = _change_of(fewer)
        if not fewer or len(fewer) == len(self.kept) or change in self.tried or not self.is_sound(change):
            return
        if len(self.tried) < self.max_trials:
            self.tried.add(change)
            if await still_passes(change):
                self.kept = fewer


def _statements(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Yield each line of a change together with the deeper lines of the same kind that follow it.

    Blank lines before a new definition are none: they stay for as long as it does.
    """
    for i, part in enumerate(parts):
        if not _text(part) and _begins_definition(parts[i + 1 :]):
            continue
        group = [part]
        for other in parts[i + 1 :]:
            follows = other[0] == part[0] and other[1].start == group[-1][1].end
            if not follows or _kind(other) != _kind(part) or _depth(other) <= _depth(part):
                break
            group.append(other)
        yield group


def _begins_definition(parts: Sequence[_Part]) -> bool:
    first = next((_text(part) for part in parts if _text(part)), b"")
    return first.startswith((b"def ", b"async def ", b"class ", b"@"))


def _text(part: _Part) -> bytes:
    return (part[1].new or part[1].old)[0].strip()


def _kind(part: _Part) -> tuple[bool, bool]:
    return bool(part[1].old), bool(part[1].new)


def _depth(part: _Part) -> int:
    line = (part[1].new or part[1].old)[0]
    # A blank line belongs to what stands above it.
    return len(line) - len(line.lstrip()) if line.strip() else 1 << 20


def _pairs(old: Sequence[bytes], new: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return which old line became which new one: the alignment of the greatest likeness in all."""
    likeness = [[_likeness(a, b) for b in new] for a in old]
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in range(len(old) - 1, -1, -1):
        for j in range(len(new) - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + likeness[i][j])
    found, i, j = list[tuple[int, int]](), 0, 0
    while i < len(old) and j < len(new):
        if likeness[i][j] and best[i][j] == best[i + 1][j + 1] + likeness[i][j]:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return found


def _likeness(a: bytes, b: bytes) -> float:
    ratio = SequenceMatcher(None, a.strip(), b.strip(), autojunk=False).ratio()
    return ratio if ratio >= _MIN_SIMILARITY else 0.0


def _change_of(parts: Sequence[_Part]) -> Change:
    """Return the parts as a change, those that touch joined to one hunk."""
    hunks: dict[str, list[Hunk]] = {}
    for path, hunk in parts:
        before = hunks.setdefault(path, [])
        if before and hunk.start <= before[-1].end:
            last = before.pop()
            hunk = Hunk(last.start, hunk.end, last.old + hunk.old, last.new + hunk.new)
        before.append(hunk)
    return tuple(FileChange(path, tuple(found)) for path, found in hunks.items())
