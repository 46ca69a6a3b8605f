"""Python source files as bytes and as lines: encoding, byte order mark and line ends survive an edit."""

from __future__ import annotations

import io
import tokenize
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Lines that take the place of others. Lines count from 1, both ends included."""

    path: str
    start_line: int
    end_line: int
    text: str  # whole lines, with \n ends, whatever the file has


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A decoded file."""

    lines: tuple[str, ...]  # with their line ends
    encoding: str
    newline: str  # the one that most lines have

    def text(self, start_line: int = 1, end_line: int | None = None) -> str:
        """Return these lines with \\n line ends."""
        wanted = "".join(self.lines[start_line - 1 : end_line])
        return wanted.replace("\r\n", "\n").replace("\r", "\n")


def read_source(data: bytes) -> SourceFile:
    """Return the file decoded as Python would, or as Latin-1, which loses nothing, where Python cannot."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError):
        encoding = "latin-1"
        text = data.decode(encoding)
    lines = split_lines(text)
    num_crlf = sum(line.endswith("\r\n") for line in lines)
    return SourceFile(lines, encoding, "\r\n" if num_crlf > len(lines) / 2 else "\n")


def split_lines(text: str) -> tuple[str, ...]:
    """Return the lines, with their line ends, as Python counts them."""
    # Not str.splitlines, which also breaks at form feeds and Unicode separators.
    return tuple(io.StringIO(text, newline=""))


def apply_edit(data: bytes, edit: Edit) -> bytes:
    """Return the file with the edit made.

    Raises:
        UnicodeEncodeError: the new text does not fit the file's encoding.
    """
    source = read_source(data)
    before, after = source.lines[: edit.start_line - 1], source.lines[edit.end_line :]
    text = edit.text
    if not after and source.lines and not source.lines[-1].endswith(("\n", "\r")):
        text = text.removesuffix("\n")  # the file ended without a newline
    text = text.replace("\n", source.newline)
    return ("".join(before) + text + "".join(after)).encode(source.encoding)


def indentation(line: str) -> str:
    """Return the white space that the line begins with."""
    return line[: len(line) - len(line.lstrip(" \t"))]


def dedent(text: str) -> str:
    """Take the first line's indentation off every line that has it; lines inside strings may have less."""
    lines = text.split("\n")
    prefix = indentation(next((line for line in lines if line.strip()), ""))
    return "\n".join(line.removeprefix(prefix) for line in lines)


def reindent(text: str, original: str) -> str:
    """Put dedented text back to the original's indentation, with tabs where the original has tabs.

    A line that the original had with less than its indentation (inside a string) stays as it is.
    """
    prefix = indentation(original)
    lines = text.split("\n")
    if _uses_tabs(original):
        lines = [_with_tabs(line) for line in lines]
    unindented = {line for line in original.split("\n") if line.strip() and not line.startswith(prefix)}
    return "\n".join(line if not line.strip() or line in unindented else prefix + line for line in lines)


def _uses_tabs(text: str) -> bool:
    return any(line.startswith("\t") for line in text.split("\n"))


def _with_tabs(line: str) -> str:
    white = indentation(line)
    columns = len(white.expandtabs(4))
    return "\t" * (columns // 4) + " " * (columns % 4) + line[len(white) :]
