"""What a user relies on when a patch comes back: it is applied whole, or the tree stays as it was."""

import os
from pathlib import Path

import pytest

from pipeline.exceptions import InputError, LoopwrightError
from pipeline.snapshot import Snapshot
from pipeline.workspace import apply_patch, export_snapshot
from tests.unit.test_workspace_export import git, make_repository, write


def simple_diff(path: str, old: str, new: str) -> str:
    return f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-{old}\n+{new}\n"


def snapshot_of(repo: Path, tmp_path: Path, commit: str | None = None) -> Snapshot:
    return export_snapshot(str(repo), commit, tmp_path / "seen", clone_cache=tmp_path / "clones")


def state_of(repo: Path) -> dict[str, bytes]:
    files = [path for path in repo.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {str(path.relative_to(repo)): path.read_bytes() for path in files}


def test_patch_changes_adds_and_deletes_files(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n", "gone.py": b"2\n", "c.py": b"3\n"})
    added = "new file mode 100644\n--- /dev/null\n+++ b/new/b.py\n@@ -0,0 +1 @@\n+b\n"
    deleted = "deleted file mode 100644\n--- a/gone.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-2\n"
    diff = simple_diff("a.py", "1", "one")
    diff += f"diff --git a/new/b.py b/new/b.py\n{added}diff --git a/gone.py b/gone.py\n{deleted}"
    apply_patch(repo, diff, seen=snapshot_of(repo, tmp_path))
    assert state_of(repo) == {"a.py": b"one\n", "new/b.py": b"b\n", "c.py": b"3\n"}


def test_uncommitted_work_elsewhere_is_kept_and_the_index_untouched(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n", "b.py": b"1\n"})
    write(repo, {"b.py": b"mine\n"})
    index = (repo / ".git" / "index").read_bytes()
    apply_patch(repo, simple_diff("a.py", "1", "2"), seen=snapshot_of(repo, tmp_path))
    assert state_of(repo) == {"a.py": b"2\n", "b.py": b"mine\n"}
    assert (repo / ".git" / "index").read_bytes() == index


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("crlf.py", b"x = 1\r\n", b"x = 2\r\n"),
        ("latin.py", "s = 'é'\n".encode("latin-1"), "s = 'è'\n".encode("latin-1")),
        ("bom.py", b"\xef\xbb\xbfx = 1\n", b"\xef\xbb\xbfx = 2\n"),
    ],
)
def test_line_ends_and_encoding_stay(tmp_path, path, old, new):
    repo = make_repository(tmp_path / "repo", {path: old, ".gitattributes": b"* text=auto eol=crlf\n"})
    git(repo, "config", "core.autocrlf", "true")
    write(repo, {path: old})
    old_line, new_line = (os.fsdecode(data[:-1]) for data in (old, new))
    apply_patch(repo, simple_diff(path, old_line, new_line), seen=snapshot_of(repo, tmp_path))
    assert (repo / path).read_bytes() == new


def test_checkout_with_converted_line_ends_takes_a_patch_against_the_commit(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"x = 1\n"})
    write(repo, {"a.py": b"x = 1\r\n"})
    apply_patch(repo, simple_diff("a.py", "x = 1", "x = 2"), seen=snapshot_of(repo, tmp_path, "HEAD"))
    assert (repo / "a.py").read_bytes() == b"x = 2\r\n"


def test_permissions_stay(tmp_path):
    repo = make_repository(tmp_path / "repo", {"run.py": b"1\n"})
    (repo / "run.py").chmod(0o750)
    apply_patch(repo, simple_diff("run.py", "1", "2"), seen=snapshot_of(repo, tmp_path))
    assert (repo / "run.py").stat().st_mode & 0o777 == 0o750


def test_mode_change_in_the_patch_is_made(tmp_path):
    repo = make_repository(tmp_path / "repo", {"run.py": b"1\n"})
    diff = "diff --git a/run.py b/run.py\nold mode 100644\nnew mode 100755\n" + simple_diff(
        "run.py", "1", "2"
    )
    apply_patch(repo, diff, seen=snapshot_of(repo, tmp_path))
    assert os.access(repo / "run.py", os.X_OK)


def test_file_changed_since_the_run_began_refuses_the_whole_patch(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n", "b.py": b"1\n"})
    seen = snapshot_of(repo, tmp_path)
    write(repo, {"b.py": b"1\nmine\n"})
    before = state_of(repo)
    with pytest.raises(InputError, match=r"b\.py has changed since"):
        apply_patch(repo, simple_diff("a.py", "1", "2") + simple_diff("b.py", "1", "2"), seen=seen)
    assert state_of(repo) == before


def test_new_file_that_the_user_made_meanwhile_is_not_overwritten(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    seen = snapshot_of(repo, tmp_path)
    write(repo, {"b.py": b"mine\n"})
    with pytest.raises(InputError, match=r"b\.py has changed"):
        apply_patch(repo, "--- /dev/null\n+++ b/b.py\n@@ -0,0 +1 @@\n+theirs\n", seen=seen)
    assert (repo / "b.py").read_bytes() == b"mine\n"


@pytest.mark.parametrize(
    "diff",
    [
        simple_diff("a.py", "9", "2"),  # context that is not there
        "I would change a.py.\n",  # prose
        simple_diff("a.py", "1", "2") + simple_diff("missing.py", "1", "2"),  # one of two applies
        "--- a/../evil.py\n+++ b/../evil.py\n@@ -0,0 +1 @@\n+x\n",  # leaves the tree
        "--- /dev/null\n+++ b/.git/hooks/pre-commit\n@@ -0,0 +1 @@\n+x\n",  # into the git folder
        "diff --git a/a.py b/z.py\nsimilarity index 100%\nrename from a.py\nrename to z.py\n",
    ],
)
def test_diff_that_does_not_fit_changes_nothing(tmp_path, diff):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    with pytest.raises(InputError):
        apply_patch(repo, diff, seen=snapshot_of(repo, tmp_path))
    assert state_of(repo) == {"a.py": b"1\n"}
    assert not (tmp_path / "evil.py").exists()
    assert not (repo / ".git" / "hooks" / "pre-commit").exists()


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.py").write_bytes(b"1\n")
    repo = make_repository(tmp_path / "repo", {"pkg/a.py": b"1\n"})
    seen = snapshot_of(repo, tmp_path)
    (repo / "pkg" / "a.py").unlink()
    (repo / "pkg").rmdir()
    (repo / "pkg").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="behind a link"):
        apply_patch(repo, simple_diff("pkg/a.py", "1", "2"), seen=seen)
    assert (tmp_path / "outside" / "a.py").read_bytes() == b"1\n"


def test_failure_half_way_puts_back_what_was_written(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    seen = snapshot_of(repo, tmp_path)
    (repo / "z.py").mkdir()  # the second file of the patch cannot be put there
    diff = simple_diff("a.py", "1", "2") + "--- /dev/null\n+++ b/z.py\n@@ -0,0 +1 @@\n+x\n"
    with pytest.raises(LoopwrightError, match=r"z\.py"):
        apply_patch(repo, diff, seen=seen)
    assert state_of(repo) == {"a.py": b"1\n"}
    assert sorted(path.name for path in repo.iterdir()) == [".git", "a.py", "z.py"]
