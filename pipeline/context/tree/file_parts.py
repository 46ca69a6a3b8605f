"""The tree of one file: its definitions, and windows for what lies between them. A pure function of bytes.

The leaves tile the file: each byte is in exactly one. Blank lines and closing brackets after a definition
belong to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipeline.context.tree.languages import Language
from pipeline.context.tree.node import LeafLimits, Part
from pipeline.context.tree.outline import Item, docstring, first_comment, one_line, outline
from pipeline.context.tree.windows import Source, windows

_NOTHING = re.compile(rb"[\s)\]};,]*")
_MAX_DEPTH = 8  # of definitions within each other; what lies deeper is windows


def file_parts(data: bytes, language: Language | None, limits: LeafLimits) -> Part:
    """Return the part that is the whole file; without a language it has windows only."""
    source = Source(data)
    items = outline(data, language) if language else []
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0  # a byte order mark
    doc = docstring(data[start : start + 400]) or first_comment(data) if language else ""
    builder = _Builder(source, limits)
    parts = builder.parts(items, "", 0, len(data), 0)
    return Part("file", "", 0, len(data), min(1, len(data)), len(source.starts), "", doc, parts)


class _Builder:
    """Makes the parts of one file."""

    def __init__(self, source: Source, limits: LeafLimits) -> None:
        self.source = source
        self.limits = limits

    def parts(self, items: Sequence[Item], scope: str, start: int, end: int, depth: int) -> tuple[Part, ...]:
        """Return parts that tile a span; none where the span is a leaf itself."""
        if depth >= _MAX_DEPTH or not items:
            spans = windows(self.source, start, end, self.limits) if end > start else []
            return tuple(self._window(scope, *span) for span in spans) if len(spans) > 1 else ()
        found: list[Part] = []
        for item, low, high in _segments(self.source.data, items, start, end):
            if item is None:
                cuts = windows(self.source, low, high, self.limits)
                found += [self._window(scope, *span) for span in cuts]
            else:
                found.append(self._definition(item, scope, low, high, depth))
        return tuple(found)

    def _definition(self, item: Item, scope: str, start: int, end: int, depth: int) -> Part:
        qualname = f"{scope}.{item.name}" if scope else item.name
        # What is defined inside a function belongs to it, unless it is too long to be read at once.
        whole = item.kind == "function" and self.source.fits(start, end, self.limits)
        parts = () if whole else self.parts(item.items, qualname, start, end, depth + 1)
        first, last = self.source.line_at(start), self.source.line_at(end - 1)
        return Part(item.kind, qualname, start, end, first, last, item.signature, item.doc, parts)

    def _window(self, scope: str, start: int, end: int) -> Part:
        data = self.source.data[start:end]
        first, last = self.source.line_at(start), self.source.line_at(end - 1)
        return Part("window", scope, start, end, first, last, one_line(data.lstrip().partition(b"\n")[0]), "")


def _segments(
    data: bytes, items: Sequence[Item], start: int, end: int
) -> Iterator[tuple[Item | None, int, int]]:
    """Yield definitions and gaps that tile the span; a gap with nothing in it goes to its neighbour."""
    cursor = start
    waiting: tuple[Item, int, int] | None = None  # the last definition: it may still grow
    for number, item in enumerate(items):
        bound = items[number + 1].start_byte if number + 1 < len(items) else end
        low, high = max(item.lead_byte, cursor), min(_line_end(data, item.end_byte), bound, end)
        if not _NOTHING.fullmatch(data, cursor, low):
            if waiting:
                yield waiting
            yield None, cursor, low
        elif waiting:
            yield waiting[0], waiting[1], low
        else:
            low = cursor
        waiting, cursor = (item, low, high), high
    if waiting and _NOTHING.fullmatch(data, cursor, end):
        yield waiting[0], waiting[1], end
        return
    if waiting:
        yield waiting
    yield None, cursor, end


def _line_end(data: bytes, byte: int) -> int:
    """Return where the next line begins after what ends at `byte`."""
    found = data.find(b"\n", byte - 1)
    return len(data) if found < 0 else found + 1
