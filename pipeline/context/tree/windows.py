"""Cuts a stretch of source into windows that keep to the leaf limits, where a reader would cut it."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property

from pipeline.context.tree.node import LeafLimits

_LINE_FEED = re.compile(rb"\n")
_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80  # UTF-8: bytes of a character after its first


class Source:
    """A file's bytes, and where its lines are. Lines end at a line feed, as tree-sitter counts them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @cached_property
    def starts(self) -> Sequence[int]:
        """Where each line begins, in bytes."""
        starts = [0, *(match.end() for match in _LINE_FEED.finditer(self.data))]
        return starts[:-1] if starts[-1] == len(self.data) else starts

    def line_at(self, byte: int) -> int:
        """Return the line, from 1, that a byte stands in."""
        return bisect_right(self.starts, byte)

    def num_lines(self, start: int, end: int) -> int:
        """Return how many lines a span touches."""
        return self.line_at(end - 1) - self.line_at(start) + 1 if end > start else 0

    def fits(self, start: int, end: int, limits: LeafLimits) -> bool:
        """Say whether a span can be one leaf."""
        return end - start <= limits.max_bytes and self.num_lines(start, end) <= limits.max_lines


def windows(source: Source, start: int, end: int, limits: LeafLimits) -> list[tuple[int, int]]:
    """Return spans that tile [start, end), each within the limits.

    A cut is made where a line begins, if possible after a blank line and before one that is indented little;
    within a line only where that line alone is over the limits.
    """
    found = []
    while not source.fits(start, end, limits):
        cut = _cut(source, start, end, limits)
        found.append((start, cut))
        start = cut
    return [*found, (start, end)]


def _cut(source: Source, start: int, end: int, limits: LeafLimits) -> int:
    first = source.line_at(start)  # index of the line after that of `start`
    last = min(first + limits.max_lines, len(source.starts))
    highest = min(start + limits.max_bytes, end)
    candidates = [s for s in source.starts[first:last] if start < s <= highest]
    if not candidates:
        return _character_start(source.data, highest, start)
    upper_half = candidates[(len(candidates) - 1) // 2 :]
    return max(upper_half, key=lambda byte: (_break_score(source, byte), byte))


def _break_score(source: Source, byte: int) -> tuple[bool, int]:
    line = source.data[byte : _line_end(source, byte)]
    above = source.data[source.starts[max(bisect_left(source.starts, byte) - 1, 0)] : byte]
    indent = len(line) - len(line.lstrip())
    return (bool(line.strip()) and not above.strip(), -indent)


def _line_end(source: Source, byte: int) -> int:
    following = bisect_right(source.starts, byte)
    return source.starts[following] if following < len(source.starts) else len(source.data)


def _character_start(data: bytes, byte: int, start: int) -> int:
    cut = byte
    while cut > start + 1 and data[cut] & _CONTINUATION_MASK == _CONTINUATION:
        cut -= 1
    return cut
