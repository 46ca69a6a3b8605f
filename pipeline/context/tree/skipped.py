"""Which files are not read, and why: each is recorded in the tree with its reason."""

from __future__ import annotations

import re

MAX_FILE_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 256 << 20  # of a file that somebody names, such as a log
_VENDORED = frozenset(
    {"vendor", "vendors", "_vendor", "vendored", "_vendored", "third_party", "third-party"}
    | {"node_modules", "bower_components", "site-packages"}
)
_LOCK_FILES = frozenset(
    {"package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock", "poetry.lock"}
    | {"uv.lock", "pdm.lock", "Pipfile.lock", "Cargo.lock", "go.sum", "composer.lock", "Gemfile.lock"}
)
_GENERATED_NAME = re.compile(
    r"(\.min\.(js|css)|[._]pb2?(_grpc)?\.(py|pyi|go|cc|h)|_pb2(_grpc)?\.pyi?|\.map)$"
)
_HEAD_BYTES = 8000  # as far as git looks for a null byte
_MAX_WRONG_SHARE = 0.3  # of the characters, as of Perl's -T
_MARK_BYTES = 1000  # as far as generators put their mark


def skip_reason(path: str, data: bytes, *, is_document: bool = False) -> str:
    """Return why a file is left out of the tree; "" where it is kept. A document is kept if it is text."""
    if is_document:
        return _no_text(data, MAX_DOCUMENT_BYTES)
    *folders, name = path.split("/")
    if not _VENDORED.isdisjoint(folders):
        return "vendored"
    if name in _LOCK_FILES:
        return "lock file"
    if _GENERATED_NAME.search(name) or _says_generated(data[:_MARK_BYTES].lower()):
        return "generated"
    return _no_text(data, MAX_FILE_BYTES)


def _no_text(data: bytes, max_bytes: int) -> str:
    if len(data) > max_bytes:
        return f"over {max_bytes >> 10} KiB"
    if b"\0" in data[:_HEAD_BYTES]:
        return "binary"
    return "" if _is_text(data) else "no text"


def _is_text(data: bytes) -> bool:
    """Say whether it reads as text, if with wrong letters: sources in Latin-1 are kept."""
    text = data.decode("utf-8", "replace")
    return text.count("\N{REPLACEMENT CHARACTER}") <= _MAX_WRONG_SHARE * len(text)


def _says_generated(head: bytes) -> bool:
    return b"@generated" in head or (b"code generated" in head and b"do not edit" in head)
