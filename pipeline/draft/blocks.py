"""Reads SEARCH/REPLACE answers and applies them, strictly where it can and tolerantly where it must."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from pipeline.draft.source import indentation, split_lines

_BLOCK = re.compile(
    r"^[ \t]*<{5,9} ?SEARCH[ \t]*\n(.*?)^[ \t]*={5,9}[ \t]*\n(.*?)^[ \t]*>{5,9} ?REPLACE",
    re.DOTALL | re.MULTILINE,
)
_MIN_SIMILARITY = 0.8  # of Aider's ladder


class BlockMissedError(ValueError):
    """A SEARCH text is not in the file; the message shows the nearest place that is."""


@dataclass(frozen=True, slots=True)
class Block:
    """One replacement. Lines have \\n ends."""

    search: tuple[str, ...]
    replace: tuple[str, ...]


def read_blocks(answer: str) -> tuple[Block, ...]:
    """Return the SEARCH/REPLACE blocks of an answer."""
    return tuple(
        Block(split_lines(search), split_lines(replace)) for search, replace in _BLOCK.findall(answer)
    )


def apply_blocks(lines: Sequence[str], blocks: Sequence[Block], *, near_line: int) -> list[str]:
    """Return the lines with every block applied, in order; of equal places the one at `near_line` is meant.

    Raises:
        BlockMissedError: a SEARCH text is nowhere in the file.
    """
    result = list(lines)
    for block in blocks:
        start = _find(result, block.search, near_line - 1)
        if start is None:
            raise BlockMissedError(_miss(result, block.search))
        end = start + len(block.search)
        result[start:end] = _shifted(block, result[start] if block.search else "")
    return result


def _find(lines: Sequence[str], search: Sequence[str], near: int) -> int | None:
    """Return where the search text begins: exactly, else by its words, else by likeness."""
    if not any(line.strip() for line in search):
        return None
    starts = range(len(lines) - len(search) + 1)
    for same in (lambda a, b: a == b, lambda a, b: a.split() == b.split()):
        found = [s for s in starts if all(map(same, lines[s : s + len(search)], search))]
        if found:
            return min(found, key=lambda s: abs(s - near))
    best = _nearest(lines, search)
    return best[1] if best[0] >= _MIN_SIMILARITY else None


def _nearest(lines: Sequence[str], search: Sequence[str]) -> tuple[float, int]:
    """Return the likeness of the most similar place, from 0 to 1, and where it begins."""
    best = (0.0, 0)
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2("".join(search))
    for start in range(max(len(lines) - len(search), 0) + 1):
        matcher.set_seq1("".join(lines[start : start + len(search)]))
        # The quick ratio is an upper bound, and far cheaper.
        if matcher.quick_ratio() > best[0] and (ratio := matcher.ratio()) > best[0]:
            best = (ratio, start)
    return best


def _shifted(block: Block, first_line: str) -> list[str]:
    """Return the replacement, moved by the indentation that the model left out or put on."""
    wanted, written = indentation(first_line), indentation(block.search[0]) if block.search else ""
    if wanted == written:
        return list(block.replace)
    return [wanted + line.removeprefix(written) if line.strip() else line for line in block.replace]


def _miss(lines: Sequence[str], search: Sequence[str]) -> str:
    _, start = _nearest(lines, search)
    end = min(start + max(len(search), 1), len(lines))
    region = "".join(lines[start:end])
    return f"the SEARCH text is not in the file; the nearest lines are {start + 1}-{end}:\n{region}"
