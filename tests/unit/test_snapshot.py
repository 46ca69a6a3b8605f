"""What later stages rely on: a snapshot's stream is deterministic, complete, and never leaves its folder."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from pipeline.snapshot import Snapshot, tar_of


def make_tree(folder: Path) -> Snapshot:
    (folder / "pkg").mkdir(parents=True)
    (folder / "pkg" / "a.py").write_bytes(b"x = 1\r\n")
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / os.fsdecode(b"caf\xe9.py")).write_bytes(b"\xe9\n")
    (folder / "inside").symlink_to("pkg/a.py")
    (folder / "pkg_link").symlink_to("pkg")
    (folder / "outside").symlink_to("/etc/hostname")
    (folder / "loop").symlink_to("loop")
    return Snapshot(folder, "")


def members(stream: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        return {info.name: info for info in archive}


def test_paths_are_sorted_and_hold_links_but_no_git_folder(tmp_path):
    snapshot = make_tree(tmp_path / "tree")
    (tmp_path / "tree" / ".git").mkdir()
    (tmp_path / "tree" / ".git" / "config").write_bytes(b"")
    names = sorted(
        ["inside", "loop", "outside", "pkg/a.py", "pkg_link", "run.sh", os.fsdecode(b"caf\xe9.py")]
    )
    assert list(snapshot.paths) == names
    assert snapshot.python_paths == (os.fsdecode(b"caf\xe9.py"), "pkg/a.py")


def test_tar_unpacks_to_the_same_tree(tmp_path):
    snapshot = make_tree(tmp_path / "tree")
    with tarfile.open(fileobj=io.BytesIO(snapshot.tar)) as archive:
        archive.extractall(tmp_path / "copy", filter="fully_trusted")
    copy = Snapshot(tmp_path / "copy", "")
    assert copy.paths == snapshot.paths
    assert copy.tree_hash == snapshot.tree_hash
    assert os.access(tmp_path / "copy" / "run.sh", os.X_OK)
    assert os.readlink(tmp_path / "copy" / "outside") == "/etc/hostname"


def test_hash_ignores_times_and_sees_content_mode_and_name(tmp_path):
    first = make_tree(tmp_path / "a")
    os.utime(tmp_path / "a" / "run.sh", (1, 1))
    assert make_tree(tmp_path / "b").tree_hash == first.tree_hash
    (tmp_path / "b" / "run.sh").chmod(0o644)
    assert Snapshot(tmp_path / "b", "").tree_hash != first.tree_hash


@pytest.mark.parametrize(
    "path",
    ["outside", "loop", "../secret", "pkg_link/../../secret", "/etc/hostname", "pkg", "missing", "nul\0"],
)
def test_reading_never_leaves_the_tree(tmp_path, path):
    (tmp_path / "secret").write_bytes(b"no")
    snapshot = make_tree(tmp_path / "tree")
    with pytest.raises(FileNotFoundError):
        snapshot.read_bytes(path)


def test_links_inside_the_tree_are_read(tmp_path):
    snapshot = make_tree(tmp_path / "tree")
    assert snapshot.read_bytes("inside") == snapshot.read_bytes("pkg_link/a.py") == b"x = 1\r\n"


def test_special_files_are_left_out_of_the_stream(tmp_path):
    snapshot = make_tree(tmp_path / "tree")
    os.mkfifo(tmp_path / "tree" / "pipe")
    assert "pipe" not in members(snapshot.tar)


def test_tar_of_is_deterministic_and_sorted(tmp_path):
    stream = tar_of({"b.py": b"2", "a/c.py": b"1"})
    assert stream == tar_of({"a/c.py": b"1", "b.py": b"2"})
    assert list(members(stream)) == ["a/c.py", "b.py"]
    assert all(
        (info.mode, info.mtime, info.uid) == (0o644, 946_684_800, 0) for info in members(stream).values()
    )
