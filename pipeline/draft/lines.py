"""The line strategy: the model is told which statement of a definition is wrong, and writes that one anew.

A small model that is asked for a whole definition mostly copies it. Asked for one statement, it has little to
copy, an answer costs a dozen tokens, and all prompts of a suspect share their prefix in the engine's cache.
Which statement is wrong need not be known: each is asked for, and the tests tell.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pipeline.draft.source import dedent, indentation
from pipeline.draft.syntax import first_definition

_INDENT_WIDTH = 4
_NOT_KNOWN: Mapping[int, float] = MappingProxyType({})
Span = tuple[int, int]  # first and last line, from 1, within the definition; (n, n - 1) is the gap before n


def statement_spans(definition: str, *, ran: Mapping[int, float] = _NOT_KNOWN) -> list[Span]:
    """Return the lines of each statement, the most suspicious first; of a compound one those of its header.

    The docstring is none. `ran`: the lines that failing tests ran, and how suspicious each is; where given, a
    statement without any is left out. Text that does not parse has no statements.
    """
    node = first_definition(dedent(definition))
    if node is None:
        return []
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    spans = list(dict.fromkeys(_spans(body)))
    if not ran:
        return spans
    spans = [span for span in spans if any(n in ran for n in range(span[0], span[1] + 1))]
    return sorted(spans, key=lambda span: -suspicion_of(span, ran))


def gap_spans(definition: str, *, ran: Mapping[int, float] = _NOT_KNOWN) -> list[Span]:
    """Return the gap before each statement: where one may be missing. `ran` as above."""
    return [(first, first - 1) for first, _ in statement_spans(definition, ran=ran)]


def suspicion_of(span: Span, ran: Mapping[int, float]) -> float:
    """Return how suspicious the statement is, or the one behind the gap; 0 where it cannot be told."""
    return max((ran.get(n, 0.0) for n in range(span[0], max(span) + 1)), default=0.0)


def is_gap(span: Span) -> bool:
    """Say whether the span is a place between two lines."""
    return span[1] < span[0]


def quoted_line(definition: str, span: Span) -> str:
    """Return the statement as the prompt quotes it, with its indentation; of a gap, the line behind it."""
    last = span[0] if is_gap(span) else span[1]
    return "\n".join(dedent(definition).split("\n")[span[0] - 1 : last])


def start_of(quoted: str) -> str:
    """Return how an answer that is to replace the line begins, before the model says anything.

    One space less than the indentation: the model's word begins with that space, and after the whole
    indentation it would add one.
    """
    return indentation(quoted).removesuffix(" ")


def replaced_line(definition: str, span: Span, answer: str, *, truncated: bool) -> str:
    """Return the whole definition, dedented, with the answer in the place of the statement or in the gap.

    Of a truncated answer the first line counts: what was asked for stands there.
    """
    lines = dedent(definition).split("\n")
    before, old, after = lines[: span[0] - 1], lines[span[0] - 1], lines[span[1] :]
    new = answer.split("\n```")[0].rstrip().split("\n")
    new = new[:1] if truncated else new
    return "\n".join([*before, *_without_overlap(_placed(new, indentation(old)), after), *after])


def _placed(new: list[str], indent: str) -> list[str]:
    """Return the answer's lines at the indentation of the statement.

    A model that took the space that begins its first word for one more of indentation indents the lines that
    follow by that space too.
    """
    widths = [len(indentation(line)) - len(indent) for line in new[1:] if line.strip()]
    extra = next((n for n in (0, 1) if all((width - n) % _INDENT_WIDTH == 0 for width in widths)), 0)
    prefix = indent + " " * extra
    rest = [indent + line.removeprefix(prefix) if line.startswith(prefix) else line for line in new[1:]]
    return [indent + new[0].lstrip(" \t"), *rest]


def _spans(body: list[ast.stmt]) -> Iterator[Span]:
    for node in body:
        blocks = list(_blocks(node))
        if not blocks:
            yield node.lineno, node.end_lineno or node.lineno
            continue
        first = blocks[0][0].lineno
        if not isinstance(node, ast.Try | ast.TryStar):  # `try:` says nothing that could be wrong
            yield node.lineno, max(first - 1, node.lineno)
        for block in blocks:
            yield from _spans(block)


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield the statement lists of a compound statement, those of handlers and cases included."""
    for _, value in ast.iter_fields(node):
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield value
        elif isinstance(value, list):
            for part in value:
                if isinstance(part, ast.excepthandler | ast.match_case):
                    yield from _blocks(part)


def _without_overlap(new: list[str], after: list[str]) -> list[str]:
    """Drop the lines at the end of the answer that merely go on with the original."""
    for length in range(min(len(new) - 1, len(after)), 0, -1):
        if [line.strip() for line in new[-length:]] == [line.strip() for line in after[:length]]:
            return new[:-length]
    return new
