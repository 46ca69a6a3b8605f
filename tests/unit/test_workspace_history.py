"""Code under test sees a repository with one commit: the tree as it stands."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline.snapshot import Snapshot
from pipeline.workspace import with_history


def tree(folder: Path) -> Snapshot:
    """Return a tree with what is awkward: an ignored file, odd names, line ends that git would convert."""
    folder.mkdir()
    for name, content in {
        "a.py": b"x = 1\r\n",
        "ignored.log": b"kept all the same",
        ".gitignore": b"*.log\n",
        ".gitattributes": b"*.py text eol=lf\n",
        'odd "name" \\ é\n.txt': b"1",
        "sub/.git": b"gitdir: /elsewhere",
        "run.sh": b"#!/bin/sh\n",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("/etc/passwd")
    return Snapshot(folder, "")


def git(folder: Path, *arguments: str) -> str:
    """Return what git says in the folder, asked as a plain user would."""
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The layers, laid into a folder as a sandbox lays them."""
    folder = tmp_path / "workspace"
    for layer in with_history(tree(tmp_path / "tree")):
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            tar.extractall(folder, filter="fully_trusted")
    return folder


def test_the_only_commit_is_the_tree_as_it_stands(unpacked: Path) -> None:
    assert git(unpacked, "log", "--all", "--format=%s, %an") == "base, loopwright\n"
    assert git(unpacked, "status", "--porcelain", "--ignored") == ""
    assert git(unpacked, "fsck", "--full") == ""


def test_bytes_links_and_modes_are_kept(unpacked: Path) -> None:
    blob = subprocess.run(["git", "cat-file", "blob", "HEAD:a.py"], cwd=unpacked, capture_output=True)
    assert blob.stdout == b"x = 1\r\n"
    modes = {line.split("\t")[1]: line.split()[0] for line in git(unpacked, "ls-tree", "HEAD").splitlines()}
    assert (modes["run.sh"], modes["link"], modes["a.py"]) == ("100755", "120000", "100644")
    assert git(unpacked, "cat-file", "blob", "HEAD:link") == "/etc/passwd"


def test_nothing_tells_who_made_it_or_when(unpacked: Path) -> None:
    assert {path.name for path in (unpacked / ".git").iterdir()} == {
        "HEAD",
        "index",
        "info",
        "objects",
        "refs",
    }


def test_equal_trees_make_equal_layers(tmp_path: Path) -> None:
    assert with_history(tree(tmp_path / "one")) == with_history(tree(tmp_path / "two"))
