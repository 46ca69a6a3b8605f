"""Unified diffs that `git apply` takes."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence

from unidiff import PatchSet
from unidiff.errors import UnidiffParseError

from pipeline.change import Change, Hunk, apply_change, hunks_of, lines_of, num_changed_lines
from pipeline.core import Patch

_CONTEXT_LINES = 3
_NO_NEWLINE = b"\n\\ No newline at end of file\n"
_BINARY_CHUNK_BYTES = 52  # of one line of a git binary patch


def unified_diff(path: str, old: bytes, new: bytes) -> str:
    """Return the change of one existing file as `git apply` takes it; empty when there is none.

    Where the shown lines are not UTF-8, which a `str` cannot carry unharmed, it is a git binary patch.
    """
    hunks = hunks_of(old, new)
    if not hunks:
        return ""
    body = b"".join(_format_groups(lines_of(old), hunks))
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return _binary_diff(path, old, new)
    # git ends a name with a tab where it has a space, so that the name's end can be told.
    end = "\t\n" if " " in path else "\n"
    return f"diff --git a/{path} b/{path}\n--- a/{path}{end}+++ b/{path}{end}{text}"


def new_file_diff(path: str, data: bytes) -> str:
    """Return the diff that adds a file of UTF-8 text, as `git apply` takes it."""
    lines = lines_of(data)
    if not lines:
        return ""
    body = b"".join(_marked(b"+", line) for line in lines).decode()
    end = "\t\n" if " " in path else "\n"
    head = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}{end}"
    return f"{head}@@ -0,0 +1,{len(lines)} @@\n{body}"


def make_patch(candidate_id: str, change: Change, base: Callable[[str], bytes]) -> Patch:
    """Return the patch that makes the change; `base` gives a file as it was."""
    diff = diff_of(change, base)
    assert _is_well_formed(diff, len(change)), "a diff of ours that unidiff cannot read"
    return Patch(
        diff=diff,
        candidate_id=candidate_id,
        paths=tuple(part.path for part in change),
        num_changed_lines=num_changed_lines(change),
    )


def diff_of(change: Change, base: Callable[[str], bytes]) -> str:
    """Return the change of all its files as one diff; `base` gives a file as it was."""
    files = apply_change(change, base)
    return "".join(unified_diff(path, base(path), files[path]) for path in sorted(files))


def _format_groups(lines: Sequence[bytes], hunks: Sequence[Hunk]) -> Iterator[bytes]:
    group: list[Hunk] = []
    shift = 0  # by how many lines the new file is ahead before this group
    for hunk in hunks:
        if group and hunk.start - group[-1].end > 2 * _CONTEXT_LINES:
            yield _format_group(lines, group, shift)
            shift += sum(len(h.new) - len(h.old) for h in group)
            group = []
        group.append(hunk)
    yield _format_group(lines, group, shift)


def _format_group(lines: Sequence[bytes], group: Sequence[Hunk], shift: int) -> bytes:
    start = max(group[0].start - _CONTEXT_LINES, 0)
    end = min(group[-1].end + _CONTEXT_LINES, len(lines))
    num_old = end - start
    num_new = num_old + sum(len(hunk.new) - len(hunk.old) for hunk in group)
    out = [b"@@ -%s +%s @@\n" % (_range(start, num_old), _range(start + shift, num_new))]
    position = start
    for hunk in group:
        out += [_marked(b" ", line) for line in lines[position : hunk.start]]
        out += [_marked(b"-", line) for line in hunk.old]
        out += [_marked(b"+", line) for line in hunk.new]
        position = hunk.end
    out += [_marked(b" ", line) for line in lines[position:end]]
    return b"".join(out)


def _range(start: int, num_lines: int) -> bytes:
    # An empty range names the line before it.
    return b"%d,%d" % (start + 1 if num_lines else start, num_lines)


def _marked(mark: bytes, line: bytes) -> bytes:
    return mark + line if line.endswith(b"\n") else mark + line + _NO_NEWLINE


def _binary_diff(path: str, old: bytes, new: bytes) -> str:
    return (
        f"diff --git a/{path} b/{path}\nindex {_blob_id(old)}..{_blob_id(new)}\nGIT binary patch\n"
        f"{_literal(new)}\n{_literal(old)}\n"
    )


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _literal(data: bytes) -> str:
    packed = zlib.compress(data)
    chunks = [packed[i : i + _BINARY_CHUNK_BYTES] for i in range(0, len(packed), _BINARY_CHUNK_BYTES)]
    rows = [_length_letter(len(chunk)) + base64.b85encode(chunk, pad=True).decode() for chunk in chunks]
    return f"literal {len(data)}\n" + "\n".join(rows) + "\n"


def _length_letter(num_bytes: int) -> str:
    return chr(ord("A") + num_bytes - 1) if num_bytes <= 26 else chr(ord("a") + num_bytes - 27)


def _is_well_formed(diff: str, num_files: int) -> bool:
    if not diff or "\nGIT binary patch\n" in diff:
        return True
    try:
        return len(PatchSet(diff)) == num_files
    except UnidiffParseError:
        return False
