"""Finds the rewritten definition in what a model said, with fences, prose and endless loops around it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.draft.source import dedent
from pipeline.draft.syntax import PARSE_ERRORS, first_definition, parse

_FENCE = re.compile(r"^[ \t]*```[\w+.-]*[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_MAX_PERIOD_LINES = 20
_MIN_REPEATS = 3  # the engine stops a loop of four, the first and the last of which may be half a line
_MAX_ENDINGS = 60  # places where a definition is tried to end


class NoDefinitionError(ValueError):
    """The answer holds no usable definition; the message says why, in plain words."""


def find_definition(answer: str, *, prefill: str, name: str, truncated: bool) -> str:
    """Return the source of the definition of `name`, dedented, decorators included.

    `truncated` says that the answer hit max_tokens, or was stopped in a loop.

    Raises:
        NoDefinitionError: there is none, it does not parse, or it was cut off.
    """
    problem = f"the answer holds no definition of {name}"
    for text in _texts(answer, prefill):
        # Only an answer that ran into its limit can be a loop.
        calmed = cut_repetition(text) if truncated else text
        block = _block_from_header(calmed, name)
        if block is None:
            continue
        code, error = _complete_definition(block, truncated=truncated and calmed == text)
        if code is not None:
            return code
        problem = error
    raise NoDefinitionError(problem)


def cut_repetition(text: str) -> str:
    """Return the text up to the end of the first turn of a loop of lines that runs to the end of the text."""
    lines = text.split("\n")
    # The last line may be half a line of the loop.
    for end in (len(lines), len(lines) - 1):
        for period in range(1, _MAX_PERIOD_LINES + 1):
            repeats = _count_repeats(lines[:end], period)
            if repeats >= _MIN_REPEATS:
                return "\n".join(lines[: end - (repeats - 1) * period])
    return text


def _texts(answer: str, prefill: str) -> Iterator[str]:
    """Yield what may be the code, likeliest first: behind the prefill, or by itself if that was dropped."""
    behind_prefill = _FENCE.findall(prefill + answer)[:1] if prefill else []
    # Without a prefill a model may quote the old code first: its last word counts.
    by_itself = _FENCE.findall(answer)[::-1]
    yield from dict.fromkeys([*behind_prefill, *by_itself, prefill + answer, answer])


def _block_from_header(text: str, name: str) -> str | None:
    """Return the text from the definition's first decorator on, dedented."""
    header = re.search(rf"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+{re.escape(name)}\b", text, re.MULTILINE)
    if header is None:
        return None
    lines = text.split("\n")
    first = text.count("\n", 0, header.start())
    start = first
    for i in range(first - 1, -1, -1):
        if not lines[i].strip():
            break
        if lines[i].lstrip().startswith("@"):
            start = i
    return dedent("\n".join(lines[start:]))


def _complete_definition(block: str, *, truncated: bool) -> tuple[str | None, str]:
    """Return the definition that the block begins with, or None and the reason."""
    lines = block.split("\n")
    for end in _possible_ends(lines):
        code = "\n".join(lines[:end])
        node = first_definition(code)
        if node is None:
            continue
        if end == len(lines) and truncated and len(parse(code).body) == 1:
            break  # nothing follows it, so its end may be missing
        return "\n".join(lines[: node.end_lineno]), ""
    if truncated:
        return None, "the answer was cut off before the definition ended"
    return None, f"the definition does not parse: {_syntax_error(block)}"


def _possible_ends(lines: list[str]) -> Iterator[int]:
    """Yield after how many lines the definition may end: before unindented text, and at the very end."""
    ends = [i for i in range(1, len(lines)) if lines[i] and not lines[i][0].isspace() and lines[i][0] != "#"]
    yield from ends[:_MAX_ENDINGS]
    yield len(lines)


def _syntax_error(text: str) -> str:
    try:
        parse(text)
    except SyntaxError as exc:
        return f"{exc.msg} (line {exc.lineno})"
    except PARSE_ERRORS as exc:
        return type(exc).__name__
    return "it is not a definition"


def _count_repeats(lines: list[str], period: int) -> int:
    last = lines[len(lines) - period :]
    if len(last) < period or not any(line.strip() for line in last):
        return 0
    repeats, end = 0, len(lines)
    while end >= period and lines[end - period : end] == last:
        repeats, end = repeats + 1, end - period
    return repeats


def definition_name(qualname: str) -> str:
    """Return the last part of a qualified name."""
    return qualname.rpartition(".")[2]
