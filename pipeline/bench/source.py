"""A Python file with AST positions as positions in its text: an edit changes its span and no other byte."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.exceptions import InputError

PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """A span of a file's text, in characters, and what takes its place."""

    start: int
    end: int
    text: str


class Source:
    """One file, decoded as Python decodes it."""

    def __init__(self, path: str, data: bytes) -> None:
        """Read the file.

        Raises:
            InputError: it is no Python, or its bytes cannot be had back from its text.
        """
        self.path = path
        self.data = data
        try:
            self._encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            self.text = data.decode(self._encoding)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.tree = ast.parse(self.text)
        except (*PARSE_ERRORS, LookupError) as exc:
            raise InputError(f"{path} is not Python that can be read: {exc}") from exc
        if self.text.encode(self._encoding) != data:
            raise InputError(f"{path} cannot be written back byte for byte ({self._encoding})")

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return where the node's text begins and ends, without parentheses around it."""
        line, column = getattr(node, "lineno"), getattr(node, "col_offset")  # noqa: B009 - AST has no such type
        end_line, end_column = getattr(node, "end_lineno"), getattr(node, "end_col_offset")  # noqa: B009
        return self._offset(line, column), self._offset(end_line, end_column)

    def segment(self, node: ast.AST) -> str:
        """Return the node's text."""
        start, end = self.span(node)
        return self.text[start:end]

    def line_start(self, line: int) -> int:
        """Return where a line begins; lines count from 1, and after the last comes the end of the text."""
        return self._line_starts[line - 1] if line <= len(self._line_starts) else len(self.text)

    def line_of(self, offset: int) -> int:
        """Return the line, counted from 1, in which a character stands."""
        return bisect_right(self._line_starts, offset)

    def edited(self, edits: Sequence[Edit]) -> bytes:
        """Return the file with the edits made.

        Raises:
            InputError: edits overlap, or hold a character that the file's encoding has not.
        """
        text, last = self.text, len(self.text) + 1
        for edit in sorted(edits, reverse=True):
            if edit.end > last:
                raise InputError(f"{self.path}: two edits overlap")
            text, last = text[: edit.start] + edit.text + text[edit.end :], edit.start
        try:
            return text.encode(self._encoding)
        except UnicodeEncodeError as exc:
            raise InputError(f"{self.path}: {exc}") from exc

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(self.text))]

    def _offset(self, line: int, column: int) -> int:
        """Return the character offset; the AST counts a column in bytes of UTF-8."""
        start = self._line_starts[line - 1]
        head = self.text[start : start + column]
        if head.isascii():
            return start + column
        line_text = self.text[start : self.line_start(line + 1)]
        return start + len(line_text.encode()[:column].decode())
