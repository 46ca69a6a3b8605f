"""Finds where quoted lines of a file stand, and puts others in their place, as strictly as the quote allows.

The ladder (as Aider's): exact; but for white space at the ends of lines; indented otherwise, all lines alike;
but for white space within lines; with `...` for what is left out; at least 0.8 alike. A quote that fits two
places is refused, and so is one that fits none, with the nearest lines of the file. Line numbers never count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from pipeline.draft.source import SourceFile, indentation

_MIN_SIMILARITY = 0.8
_MIN_LEAD = 0.05  # by which the most similar place must surpass every other
_MAX_FUZZY_LINES = 200  # of a quote
_TAB_WIDTH = 4
_MAX_SHOWN_LINES = 12
_ELISION = re.compile(r"\s*(#\s*)?(\.\.\.|…)(\s.*)?$")


class MissedError(ValueError):
    """A quote has no place in the file, or more than one; the message shows the nearest lines."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Lines to find in a file and lines to put there, without their line ends."""

    search: tuple[str, ...]
    replace: tuple[str, ...]
    path: str = ""  # as the answer names it; "": the file that it was asked about


@dataclass(frozen=True, slots=True)
class _Place:
    start: int  # from 0
    end: int
    new: tuple[int | str, ...]  # lines of the file that stay, by their number, and new ones


def replace_in(source: SourceFile, replacements: Sequence[Replacement], *, likely: range, name: str) -> bytes:
    """Return the file with all replacements made at once, each found in the file as it was.

    Of equal places the one among the `likely` lines (from 0) is meant; `name` is the file's, for messages.

    Raises:
        MissedError: a quote is nowhere, or in several places, or two want the same lines.
        UnicodeEncodeError: a new line does not fit the file's encoding.
    """
    texts = [line.rstrip("\r\n") for line in source.lines]
    places = sorted(
        (place for r in replacements for place in _find(texts, _trimmed(r), likely, name)),
        key=lambda place: (place.start, place.end),
    )
    for earlier, later in pairwise(places):
        if later.start < earlier.end:
            raise MissedError(f"two edits want line {later.start + 1} of {name} to be different things")
    return _written(source, texts, places)


def _written(source: SourceFile, texts: Sequence[str], places: Sequence[_Place]) -> bytes:
    lines: list[int | str] = []
    position = 0
    for place in places:
        lines += [*range(position, place.start), *place.new]
        position = place.end
    lines += range(position, len(texts))
    parts = [source.lines[line] if isinstance(line, int) else line + source.newline for line in lines]
    ends = [part.endswith(("\n", "\r")) for part in parts]
    # Only the file's last line may lack its end, and it goes on lacking it.
    parts = [part if end else part + source.newline for part, end in zip(parts, ends, strict=True)]
    if parts and source.lines and not source.lines[-1].endswith(("\n", "\r")):
        parts[-1] = parts[-1].rstrip("\r\n")
    return "".join(parts).encode(source.encoding)


def _trimmed(replacement: Replacement) -> Replacement:
    """Drop the blank lines at both ends that search and replacement share."""
    search, new = list(replacement.search), list(replacement.replace)
    for end in (0, -1):
        while len(search) > 1 and new and not search[end].strip() and not new[end].strip():
            del search[end], new[end]
    return Replacement(tuple(search), tuple(new), replacement.path)


def _find(texts: Sequence[str], replacement: Replacement, likely: range, name: str) -> list[_Place]:
    search = replacement.search
    if not any(line.strip() for line in search):
        raise MissedError(f"an edit of {name} quotes no line of it")
    for same in (_is_equal, _is_equal_but_for_ends, _is_shifted, _has_same_words):
        starts = [s for s in range(len(texts) - len(search) + 1) if same(texts[s : s + len(search)], search)]
        if starts:
            start = _only(starts, len(search), likely, name)
            return [_place(texts, start, replacement, name)]
    if places := _find_elided(texts, replacement, likely, name):
        return places
    similar = _most_similar(texts, search)
    if similar is None:
        raise MissedError(_miss(texts, search, name))
    return [_place(texts, similar, replacement, name)]


def _only(starts: Sequence[int], length: int, likely: range, name: str) -> int:
    inside = [s for s in starts if s in likely and s + length - 1 in likely]
    if len(inside) == 1:
        return inside[0]
    if len(starts) > 1:
        numbers = ", ".join(str(start + 1) for start in starts[:5])
        raise MissedError(f"the quoted lines stand in {name} at lines {numbers}: quote more of one place")
    return starts[0]


def _find_elided(texts: Sequence[str], whole: Replacement, likely: range, name: str) -> list[_Place]:
    """Return the places of the parts between `...` lines, which are the same in both halves; none if not."""
    searches, news = list(_parts(whole.search)), list(_parts(whole.replace))
    if len(searches) < 2 or len(searches) != len(news):
        return []
    found: list[_Place] = []
    for search, new in zip(searches, news, strict=True):
        if not search and not new:
            continue
        after = found[-1].end if found else 0
        starts = [
            s
            for s in range(after, len(texts) - len(search) + 1)
            if search and _is_shifted(texts[s : s + len(search)], search)
        ]
        if not starts:
            return []
        start = _only(starts, len(search), likely, name)
        found.append(_place(texts, start, Replacement(search, new), name))
    return found


def _parts(lines: Sequence[str]) -> Iterator[tuple[str, ...]]:
    part: list[str] = []
    for line in lines:
        if _ELISION.match(line):
            yield tuple(part)
            part = []
        else:
            part.append(line)
    yield tuple(part)


# ---------------------------------------------------------------- likeness


def _is_equal(lines: Sequence[str], search: Sequence[str]) -> bool:
    return list(lines) == list(search)


def _is_equal_but_for_ends(lines: Sequence[str], search: Sequence[str]) -> bool:
    return all(a.rstrip() == b.rstrip() for a, b in zip(lines, search, strict=True))


def _is_shifted(lines: Sequence[str], search: Sequence[str]) -> bool:
    same = all(a.strip() == b.strip() for a, b in zip(lines, search, strict=True))
    return same and _shift(lines, search) is not None


def _has_same_words(lines: Sequence[str], search: Sequence[str]) -> bool:
    same = all(a.split() == b.split() for a, b in zip(lines, search, strict=True))
    return same and _shift(lines, search) is not None


def _shift(lines: Sequence[str], search: Sequence[str]) -> int | None:
    """Return by how many columns the file is indented further than the quote; None where lines disagree."""
    both = [(a, b) for a, b in zip(lines, search, strict=True) if a.strip() and a.split() == b.split()]
    shifts = {_width(a) - _width(b) for a, b in both}
    return shifts.pop() if len(shifts) == 1 else None


def _width(line: str) -> int:
    return len(indentation(line).expandtabs(_TAB_WIDTH))


def _most_similar(texts: Sequence[str], search: Sequence[str]) -> int | None:
    if len(search) > _MAX_FUZZY_LINES:
        return None
    best, second = (0.0, 0), 0.0
    for ratio, start in _ratios(texts, search):
        if ratio > best[0]:
            best, second = (ratio, start), best[0]
        else:
            second = max(second, ratio)
    ratio, start = best
    is_placed = _shift(texts[start : start + len(search)], search) is not None if ratio else False
    return start if ratio >= _MIN_SIMILARITY and ratio - second >= _MIN_LEAD and is_placed else None


def _ratios(texts: Sequence[str], search: Sequence[str]) -> Iterator[tuple[float, int]]:
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2("\n".join(search))
    for start in range(len(texts) - len(search) + 1):
        matcher.set_seq1("\n".join(texts[start : start + len(search)]))
        # The quick ratio is an upper bound, and far cheaper.
        if matcher.quick_ratio() >= _MIN_SIMILARITY - _MIN_LEAD:
            yield matcher.ratio(), start


# ---------------------------------------------------------------- putting in


def _place(texts: Sequence[str], start: int, replacement: Replacement, name: str) -> _Place:
    """Return the place with its new lines; what both halves quote alike stays as the file has it."""
    search = replacement.search
    end = start + len(search)
    shift = _shift(texts[start:end], search) or 0
    indented = [text for text in texts[start:end] if text[:1].isspace()] or texts
    tabs = any(text.startswith("\t") for text in indented)
    before, after = [line.rstrip() for line in search], [line.rstrip() for line in replacement.replace]
    new: list[int | str] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            new += range(start + i1, start + i2)
        else:
            new += [_shifted(line, shift, name, tabs=tabs) for line in after[j1:j2]]
    return _Place(start, end, tuple(new))


def _shifted(line: str, shift: int, name: str, *, tabs: bool) -> str:
    white = indentation(line)
    if not line.strip() or (not shift and (not tabs or "\t" in white)):
        return line
    width = _width(line) + shift
    if width < 0:
        raise MissedError(f"a new line of {name} would stand left of the margin: {line.strip()[:80]}")
    if not tabs:
        return " " * width + line[len(white) :]
    return "\t" * (width // _TAB_WIDTH) + " " * (width % _TAB_WIDTH) + line[len(white) :]


def _miss(texts: Sequence[str], search: Sequence[str], name: str) -> str:
    """Say that the quote is nowhere, and show the lines that come nearest, with their numbers."""
    start = _nearest(texts, search)
    shown = texts[start : start + min(max(len(search), 1), _MAX_SHOWN_LINES)]
    region = "\n".join(f"{start + i + 1:5}  {text}" for i, text in enumerate(shown))
    where = f"{start + 1}-{start + len(shown)}"
    return f"the quoted lines are not in {name}; the nearest lines are {where}:\n{region}"


def _nearest(texts: Sequence[str], search: Sequence[str]) -> int:
    best = (0.0, 0)
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2("\n".join(search[:_MAX_FUZZY_LINES]))
    for start in range(max(len(texts) - len(search), 0) + 1):
        matcher.set_seq1("\n".join(texts[start : start + len(search)]))
        if matcher.quick_ratio() > best[0] and (ratio := matcher.ratio()) > best[0]:
            best = (ratio, start)
    return best[1]
