"""Reads SEARCH/REPLACE answers, over one or several files: the path stands on the line before its blocks."""

from __future__ import annotations

import re

from pipeline.draft.place import Replacement

_BLOCK = re.compile(
    r"^[ \t]*<{5,9} ?SEARCH[ \t]*\n(.*?)^[ \t]*={5,9}[ \t]*\n(.*?)^[ \t]*>{5,9} ?REPLACE",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(r"^[ \t]*(<{5,9} ?SEARCH|={5,9}[ \t]*$|>{5,9} ?REPLACE)", re.MULTILINE)
_PATH = re.compile(r"[\w.+@/ -]*\.\w{1,8}")
_DECORATION = " \t`*#:\"'"  # what models put around a path


def read_blocks(answer: str, prefill: str = "") -> tuple[Replacement, ...]:
    """Return the SEARCH/REPLACE blocks of an answer, which may go on from a prefill or begin anew.

    A block without a path means the file of the one before.
    """
    first = _MARK.search(answer)
    begins_anew = first is not None and "SEARCH" in first[0]
    text = (answer if begins_anew else prefill + answer).replace("\r\n", "\n")
    found: list[Replacement] = []
    end, path = 0, ""
    for match in _BLOCK.finditer(text):
        path = _path_before(text[end : match.start()]) or path
        found.append(Replacement(_lines(match[1]), _lines(match[2]), path))
        end = match.end()
    return tuple(found)


def _path_before(text: str) -> str:
    """Return the path on the last line that says something, or an empty string."""
    lines = [line for line in text.split("\n") if line.strip() and not line.strip().startswith("```")]
    last = lines[-1].strip(_DECORATION) if lines else ""
    return last.removeprefix("./") if _PATH.fullmatch(last) else ""


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.removesuffix("\n").split("\n")) if text else ()
