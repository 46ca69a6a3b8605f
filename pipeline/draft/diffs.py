"""Reads unified diffs as models write them: wrong numbers, blank lines without their space, prose around."""

from __future__ import annotations

import re
from collections.abc import Iterator

from unidiff import PatchSet
from unidiff.errors import UnidiffParseError

from pipeline.draft.place import Replacement

_FENCE = re.compile(r"^[ \t]*```[\w+.-]*[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_NO_NEWLINE = "\\ No newline"


def read_diff(answer: str, prefill: str = "") -> tuple[Replacement, ...]:
    """Return the hunks of the first diff in an answer, which may go on from a prefill or begin anew."""
    text = (answer if _begins_anew(answer) else prefill + answer).replace("\r\n", "\n")
    for part in (*_FENCE.findall(text), text):
        found = _hunks(part)
        if found:
            return found
    return ()


def _begins_anew(answer: str) -> bool:
    header = re.search(r"^--- .*\n\+\+\+ ", answer, re.MULTILINE)
    return header is not None and not re.search(r"@@|^[ +-]", answer[: header.start()], re.MULTILINE)


def _hunks(text: str) -> tuple[Replacement, ...]:
    try:
        files = PatchSet("\n".join(_mended(text.split("\n"))) + "\n")
    except UnidiffParseError:
        return ()
    return tuple(
        Replacement(
            tuple(_text(line.value) for line in hunk if line.line_type in "- "),
            tuple(_text(line.value) for line in hunk if line.line_type in "+ "),
            file.path,
        )
        for file in files
        for hunk in file
    )


def _mended(lines: list[str]) -> Iterator[str]:
    """Yield the lines of the diff alone, every hunk's header with the numbers that its lines come to."""
    i = 0
    while i < len(lines):
        if _is_file_header(lines, i):
            yield from lines[i : i + 2]
            i += 2
        elif lines[i].startswith("@@"):
            end = next((j for j in range(i + 1, len(lines)) if _ends_hunk(lines, j)), len(lines))
            yield from _recounted(lines[i + 1 : end])
            i = end
        else:
            i += 1


def _recounted(body: list[str]) -> Iterator[str]:
    while body and not body[-1].strip():
        body = body[:-1]  # blank lines behind the last hunk are no context
    marked = [line if line[:1] in ("+", "-", " ") else f" {line}" for line in body if line[:1] != "\\"]
    num_old = sum(line[0] != "+" for line in marked)
    num_new = sum(line[0] != "-" for line in marked)
    yield f"@@ -1,{num_old} +1,{num_new} @@"
    yield from marked


def _ends_hunk(lines: list[str], i: int) -> bool:
    return lines[i].startswith(("@@", "diff --git ")) or _is_file_header(lines, i)


def _is_file_header(lines: list[str], i: int) -> bool:
    # A removed line may begin with "--" too: only both lines together are a header.
    return lines[i].startswith("--- ") and i + 1 < len(lines) and lines[i + 1].startswith("+++ ")


def _text(value: str) -> str:
    return value.removesuffix("\n")
