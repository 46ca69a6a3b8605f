"""The history that code under test sees: one commit of the tree as it stands, and nothing of upstream."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.snapshot import Snapshot, tar_of
from pipeline.workspace.git import open_scratch

_COMMIT = b"commit refs/heads/main\ncommitter loopwright <> 946684800 +0000\ndata 4\nbase\n"


def with_history(snapshot: Snapshot) -> tuple[bytes, bytes]:
    """Return the snapshot and the `.git` of a repository whose only commit it is, as layers of a sandbox.

    Raises:
        EnvironmentBrokenError: git is missing.
    """
    with open_scratch(snapshot.root) as git:
        # A reflog would tell who works here, and when.
        git.run(
            "-c", "core.logAllRefUpdates=false", "fast-import", "--quiet", stdin=b"".join(_stream(snapshot))
        )
        git.run("-c", "core.protectNTFS=false", "read-tree", "HEAD")  # names that are wrong elsewhere
        _, out, _ = git.run("rev-parse", "--absolute-git-dir")
        folder = Path(out.decode().strip())
        files = {
            f".git/{path.relative_to(folder)}": path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
    return snapshot.tar, tar_of(files)


def _stream(snapshot: Snapshot) -> Iterator[bytes]:
    """Yield the snapshot as git fast-import takes it."""
    yield _COMMIT
    with tarfile.open(fileobj=io.BytesIO(snapshot.tar)) as tree:
        for member in tree:
            if ".git" in member.name.lower().split("/"):
                continue  # git has no place for it
            content = tree.extractfile(member) if member.isreg() else None
            data = content.read() if content else member.linkname.encode("utf-8", "surrogateescape")
            mode = b"120000" if member.issym() else b"100755" if member.mode & 0o100 else b"100644"
            yield b"M %s inline %s\ndata %d\n%s\n" % (mode, _quoted(member.name), len(data), data)


def _quoted(path: str) -> bytes:
    plain = path.encode("utf-8", "surrogateescape")
    return b'"%s"' % plain.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
