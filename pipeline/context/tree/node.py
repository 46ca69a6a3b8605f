"""What the tree is made of: a node of the repository, and the part of one file that a node is made from."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

PartKind = Literal["file", "class", "function", "window"]
NodeKind = Literal["repo", "package", "file", "class", "function", "window"]
_BYTES_PER_TOKEN = 3.5  # or so, of code
_ID_BYTES = 10  # a million nodes meet in one id with a chance of 1 in 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafLimits:
    """How large a leaf may be. Whatever is larger is cut into windows."""

    max_lines: int = 120
    max_bytes: int = 8000  # 2,000 tokens or so

    def __post_init__(self) -> None:
        if self.max_lines < 1 or self.max_bytes < 4:  # a character of UTF-8 has up to four bytes
            raise ValueError(f"a leaf needs one line and four bytes at least: {self}")


class Part(NamedTuple):
    """A piece of one file, its parts within it. It knows no path: equal bytes give equal parts."""

    kind: PartKind
    qualname: str  # "" at module level; a window has that of what it was cut from
    start_byte: int
    end_byte: int  # not included
    start_line: int  # from 1
    end_line: int  # included
    signature: str
    doc: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the tree; one without children is a leaf.

    Within a file its id depends on the blob, the qualified name and the span alone: it outlives a commit
    that changes other files, and equal files at two paths share it. A file's id has its path in it.
    """

    node_id: str
    kind: NodeKind
    path: str  # of the file or folder; "" is the repository
    qualname: str  # "" for repository, packages, files and what lies at module level
    start_line: int  # from 1; 0 above files
    end_line: int  # included, blank lines after the definition too; lines are ended by a line feed alone
    start_byte: int
    end_byte: int  # not included; above files, the bytes of all files below
    signature: str  # a definition's header, or a window's first line
    doc: str  # the first line of its documentation
    children: tuple[str, ...]  # node ids, in order

    @property
    def approx_tokens(self) -> int:
        """About how many tokens its text has; no tokenizer is asked."""
        return approx_tokens(self.end_byte - self.start_byte)


def approx_tokens(num_bytes: int) -> int:
    """Return about how many tokens a text of so many bytes has."""
    return round(num_bytes / _BYTES_PER_TOKEN)


def node_id(content: str, kind: NodeKind, name: str, start_byte: int, end_byte: int) -> str:
    """Return the id of a node: a hash of its content's hash, kind, qualified name and span."""
    text = "\0".join((content, kind, name, str(start_byte), str(end_byte)))
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=_ID_BYTES).hexdigest()
