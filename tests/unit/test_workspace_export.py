"""What a user relies on when a repository is exported: every byte, and no foreign program runs."""

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.exceptions import EnvironmentBrokenError, InputError, RepositoryUnreachableError
from pipeline.workspace import export_snapshot, load_snapshot
from pipeline.workspace.problems import explained


def git(cwd: Path, *args: str, stdin: bytes = b"") -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
    done = subprocess.run(
        ["git", *identity, *args], cwd=cwd, env=env, input=stdin, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def make_repository(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    write(folder, files)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def export(repo: Path | str, tmp_path: Path, commit: str | None = None, test_patch: str = ""):
    return export_snapshot(
        str(repo), commit, tmp_path / "out" / "tree", test_patch=test_patch, clone_cache=tmp_path / "clones"
    )


def contents(snapshot) -> dict[str, bytes]:
    return {path: (snapshot.root / path).read_bytes() for path in snapshot.paths}


# ---------------------------------------------------------------- what is exported


def test_working_tree_holds_changed_and_untracked_files_but_no_ignored_ones(tmp_path):
    repo = make_repository(
        tmp_path / "repo",
        {"kept.py": b"1\n", "changed.py": b"1\n", "gone.py": b"1\n", ".gitignore": b"*.log\n"},
    )
    write(repo, {"changed.py": b"2\n", "new/untracked.py": b"3\n", "noise.log": b"4\n"})
    (repo / "gone.py").unlink()
    snapshot = export(repo, tmp_path)
    assert contents(snapshot) == {
        ".gitignore": b"*.log\n",
        "changed.py": b"2\n",
        "kept.py": b"1\n",
        "new/untracked.py": b"3\n",
    }
    assert snapshot.commit == git(repo, "rev-parse", "HEAD")
    assert snapshot.num_uncommitted == 3


def test_commit_export_ignores_the_working_tree_and_later_commits(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    first = git(repo, "rev-parse", "HEAD")
    write(repo, {"a.py": b"2\n", "b.py": b"2\n"})
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "second")
    write(repo, {"a.py": b"3\n"})
    snapshot = export(repo, tmp_path, first[:10])
    assert contents(snapshot) == {"a.py": b"1\n"}
    assert (snapshot.commit, snapshot.num_uncommitted) == (first, 0)


def test_history_is_not_exported(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    assert sorted(os.listdir(export(repo, tmp_path).root)) == ["a.py"]


@pytest.mark.parametrize("commit", [None, "HEAD"])
def test_bytes_modes_and_links_stay_as_they_are(tmp_path, commit):
    files = {
        "crlf.py": b"x = 1\r\ny = 2\r\n",
        "mixed.txt": b"a\r\nb\nc\r",
        "latin.py": "# -*- coding: latin-1 -*-\ns = 'é'\n".encode("latin-1"),
        "null.bin": b"\0\xff\xfe",
        "empty": b"",
        "run.sh": b"#!/bin/sh\n",
        # Attributes that make `git archive` and a checkout change content.
        ".gitattributes": b"* text=auto eol=crlf\nlf.py ident\n"
        b"kept.txt export-ignore\nsub.txt export-subst\n",
        "lf.py": b"# $Id$\nx = 1\n",
        "kept.txt": b"kept\n",
        "sub.txt": b"$Format:%H$\n",
    }
    repo = tmp_path / "repo"
    repo.mkdir()
    git(repo, "init", "-q")
    # Attributes come last, so that git stores the other files byte for byte.
    write(repo, {name: data for name, data in files.items() if name != ".gitattributes"})
    (repo / "run.sh").chmod(0o755)
    (repo / "link.py").symlink_to("lf.py")
    (repo / "outside").symlink_to("/etc/hostname")
    (repo / "folder_link").symlink_to("..")
    git(repo, "add", "-A")
    write(repo, {".gitattributes": files[".gitattributes"]})
    git(repo, "add", ".gitattributes")
    git(repo, "commit", "-q", "-m", "first")
    snapshot = export(repo, tmp_path, commit)
    for name, data in files.items():
        assert snapshot.read_bytes(name) == data, name
    assert os.access(snapshot.root / "run.sh", os.X_OK)
    assert not os.access(snapshot.root / "lf.py", os.X_OK)
    assert os.readlink(snapshot.root / "link.py") == "lf.py"
    assert os.readlink(snapshot.root / "outside") == "/etc/hostname"
    assert os.readlink(snapshot.root / "folder_link") == ".."
    with pytest.raises(FileNotFoundError):
        snapshot.read_bytes("outside")


@pytest.mark.parametrize("commit", [None, "HEAD"])
def test_names_that_are_not_utf8_survive(tmp_path, commit):
    name = os.fsdecode(b"caf\xe9 \n'x.py")
    repo = make_repository(tmp_path / "repo", {name: b"1\n"})
    snapshot = export(repo, tmp_path, commit)
    assert snapshot.paths == (name,)
    assert snapshot.num_uncommitted == 0


def test_repository_without_commits_gives_its_working_tree(tmp_path):
    git(tmp_path, "init", "-q", "repo")
    write(tmp_path / "repo", {"a.py": b"1\n"})
    snapshot = export(tmp_path / "repo", tmp_path)
    assert contents(snapshot) == {"a.py": b"1\n"}
    assert (snapshot.commit, snapshot.num_uncommitted) == ("", 1)


def test_file_behind_a_folder_that_became_a_link_is_gone(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.py").write_bytes(b"outside\n")
    repo = make_repository(tmp_path / "repo", {"pkg/a.py": b"1\n"})
    (repo / "pkg" / "a.py").unlink()
    (repo / "pkg").rmdir()
    (repo / "pkg").symlink_to(tmp_path / "secret")
    snapshot = export(repo, tmp_path)
    assert snapshot.paths == ("pkg",)
    assert os.path.islink(snapshot.root / "pkg")


def test_linked_worktree_is_exported_like_a_repository(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    git(repo, "worktree", "add", "-q", "-b", "other", str(tmp_path / "linked"))
    write(tmp_path / "linked", {"a.py": b"2\n"})
    git(tmp_path / "linked", "commit", "-qam", "other")
    write(tmp_path / "linked", {"b.py": b"3\n"})
    snapshot = export(tmp_path / "linked", tmp_path)
    assert contents(snapshot) == {"a.py": b"2\n", "b.py": b"3\n"}
    assert snapshot.commit == git(repo, "rev-parse", "other")
    assert snapshot.num_uncommitted == 1


@pytest.mark.parametrize("setting", ["--split-index", "--index-version=4"])
def test_other_index_formats_are_read(tmp_path, setting):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n", "b/c.py": b"1\n"})
    git(repo, "update-index", setting)
    snapshot = export(repo, tmp_path)
    assert snapshot.paths == ("a.py", "b/c.py")
    assert snapshot.num_uncommitted == 0


def test_sha256_repository_is_exported(tmp_path):
    git(tmp_path, "init", "-q", "--object-format=sha256", "repo")
    make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    assert len(export(tmp_path / "repo", tmp_path, "HEAD").commit) == 64


def test_export_changes_nothing_in_the_repository(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    write(repo, {"a.py": b"2\n", "b.py": b"2\n"})
    before = {path: path.stat().st_mtime_ns for path in repo.rglob("*")}
    export(repo, tmp_path)
    export(repo, tmp_path, "HEAD")
    assert {path: path.stat().st_mtime_ns for path in repo.rglob("*")} == before


# ---------------------------------------------------------------- what is left out


def test_machine_made_untracked_files_are_left_out_with_a_warning(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    write(
        repo,
        {
            ".venv/pyvenv.cfg": b"home = /usr\n",
            ".venv/lib/x.py": b"\n",
            "__pycache__/a.cpython-311.pyc": b"\0",
            "b.py": b"2\n",
        },
    )
    snapshot = export(repo, tmp_path)
    assert snapshot.paths == ("a.py", "b.py")
    assert snapshot.num_uncommitted == 1
    assert any(".venv" in warning for warning in snapshot.warnings)


@pytest.mark.parametrize("commit", [None, "HEAD"])
def test_submodule_and_lfs_pointer_are_a_warning(tmp_path, commit):
    inner = make_repository(tmp_path / "inner", {"i.py": b"1\n"})
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n", "data.bin": pointer})
    git(repo, "submodule", "--quiet", "add", str(inner), "vendored")
    git(repo, "commit", "-qm", "submodule")
    snapshot = export(repo, tmp_path, commit)
    assert snapshot.paths == (".gitmodules", "a.py", "data.bin")
    assert (snapshot.root / "vendored").is_dir()
    assert "vendored" in snapshot.warnings[0]
    assert "data.bin" in snapshot.warnings[1]


# ---------------------------------------------------------------- hostile repositories


@pytest.mark.parametrize("commit", [None, "HEAD"])
def test_no_program_named_by_the_repository_runs(tmp_path, commit):
    witness = tmp_path / "witness"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\necho ran $0 $@ >> {witness}\ncat\n")
    script.chmod(0o755)
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n", "b.py": b"1\n"})
    write(repo, {".gitattributes": b"*.py filter=evil diff=evil\n", "a.py": b"2\n"})
    git(repo, "add", ".gitattributes")
    git(repo, "commit", "-qm", "attributes")
    for key in (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "core.alternateRefsCommand",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.evil.textconv",
        "diff.external",
        "uploadpack.packObjectsHook",
    ):
        git(repo, "config", key, str(script))
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-index-change", "post-checkout", "reference-transaction", "fsmonitor-watchman"):
        (hooks / name).symlink_to(script)
    git(repo, "config", "core.hooksPath", str(hooks))
    (repo / "b.py").touch()  # a stale time in the index makes git look at the content, through filters
    os.utime(repo / "b.py", (1, 1))
    # Without the view the script does run: the trap is armed.
    subprocess.run(["git", "status"], cwd=repo, capture_output=True)
    assert witness.exists()
    witness.unlink()
    snapshot = export(repo, tmp_path, commit)
    assert not witness.exists()
    assert snapshot.read_bytes("b.py") == b"1\n"


def test_work_tree_set_in_the_configuration_is_not_followed(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.py").write_bytes(b"outside\n")
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    git(repo, "config", "core.worktree", str(tmp_path / "secret"))
    assert contents(export(repo, tmp_path)) == {"a.py": b"1\n"}


def test_missing_objects_of_a_partial_clone_are_not_fetched(tmp_path):
    witness = tmp_path / "witness"
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    blob = git(repo, "rev-parse", "HEAD:a.py")
    (repo / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    git(repo, "config", "extensions.partialClone", "origin")
    git(repo, "config", "remote.origin.promisor", "true")
    git(repo, "config", "remote.origin.url", f"ext::sh -c touch% {witness}")
    with pytest.raises(InputError, match=r"lacks the content of a\.py"):
        export(repo, tmp_path, "HEAD")
    assert not witness.exists()


@pytest.mark.parametrize("name", ["..", ".git", ".GIT"])
def test_forbidden_names_in_a_tree_are_refused(tmp_path, name):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    blob = git(repo, "rev-parse", "HEAD:a.py")
    inner = git(repo, "mktree", stdin=f"100644 blob {blob}\tevil.py\n".encode())
    raw = f"40000 {name}\0".encode() + bytes.fromhex(inner)
    tree = git(repo, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw)
    commit = git(repo, "commit-tree", tree, "-m", "evil")
    with pytest.raises(InputError, match="forbidden name"):
        export(repo, tmp_path, commit)
    assert not (tmp_path / "out" / "evil.py").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_no_file_is_written_through_a_link_of_the_same_tree(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    (tmp_path / "target").mkdir()
    blob = git(repo, "rev-parse", "HEAD:a.py")
    link = git(repo, "hash-object", "-w", "--stdin", stdin=str(tmp_path / "target").encode())
    inner = git(repo, "mktree", stdin=f"100644 blob {blob}\tevil.py\n".encode())
    raw = b"120000 d\0" + bytes.fromhex(link) + b"40000 d\0" + bytes.fromhex(inner)
    tree = git(repo, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw)
    commit = git(repo, "commit-tree", tree, "-m", "evil")
    with pytest.raises(InputError):
        export(repo, tmp_path, commit)
    assert list((tmp_path / "target").iterdir()) == []


# ---------------------------------------------------------------- what a user gets wrong


def test_missing_path_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        export(tmp_path / "nowhere", tmp_path)


def test_folder_that_is_no_repository_gets_a_hint(tmp_path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match="not a git repository") as caught:
        export(tmp_path / "plain", tmp_path)
    assert "git init" in caught.value.hint


def test_folder_inside_a_repository_is_told_its_root(tmp_path):
    repo = make_repository(tmp_path / "repo", {"pkg/a.py": b"1\n"})
    with pytest.raises(InputError, match="not a git repository") as caught:
        export(repo / "pkg", tmp_path)
    assert str(repo) in caught.value.hint


@pytest.mark.parametrize("commit", ["deadbeef", "no-such-branch", "--all", "HEAD:a.py"])
def test_unknown_commit_is_named(tmp_path, commit):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    with pytest.raises(InputError, match="has no commit") as caught:
        export(repo, tmp_path, commit)
    assert commit in str(caught.value)


def test_bare_repository_needs_a_commit(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    git(tmp_path, "clone", "-q", "--bare", str(repo), "bare.git")
    with pytest.raises(InputError, match="bare"):
        export(tmp_path / "bare.git", tmp_path)
    assert contents(export(tmp_path / "bare.git", tmp_path, "main")) == {"a.py": b"1\n"}


def test_damaged_repository_is_no_traceback(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    (repo / ".git" / "index").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="index"):
        export(repo, tmp_path)


def test_test_patch_is_applied_to_the_export_only(tmp_path):
    repo = make_repository(tmp_path / "repo", {"t.py": b"a = 1\r\n", ".gitattributes": b"* text=auto\n"})
    diff = "--- a/t.py\n+++ b/t.py\n@@ -1 +1,2 @@\n a = 1\r\n+b = 2\r\n"
    diff += "--- /dev/null\n+++ b/tests/test_new.py\n@@ -0,0 +1 @@\n+x = 1\n"
    snapshot = export(repo, tmp_path, test_patch=diff)
    assert snapshot.read_bytes("t.py") == b"a = 1\r\nb = 2\r\n"
    assert snapshot.read_bytes("tests/test_new.py") == b"x = 1\n"
    assert (repo / "t.py").read_bytes() == b"a = 1\r\n"


def test_test_patch_that_does_not_apply_leaves_no_export(tmp_path):
    repo = make_repository(tmp_path / "repo", {"t.py": b"a = 1\n"})
    with pytest.raises(InputError, match=r"test patch does not apply.*t\.py"):
        export(repo, tmp_path, test_patch="--- a/t.py\n+++ b/t.py\n@@ -1 +1 @@\n-a = 9\n+a = 2\n")
    assert load_snapshot(tmp_path / "out" / "tree") is None


# ---------------------------------------------------------------- killed, repeated, cloned


def test_only_a_finished_export_is_loaded(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    destination = tmp_path / "out" / "tree"
    destination.mkdir(parents=True)  # what a kill before the last step leaves
    (destination / "half.py").write_bytes(b"")
    assert load_snapshot(destination) is None
    snapshot = export(repo, tmp_path)
    assert snapshot.paths == ("a.py",)
    assert load_snapshot(destination) == snapshot


def test_killed_export_is_cleared_by_the_next(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    write(tmp_path / "out", {".tree.partial-abc/half.py": b""})
    export(repo, tmp_path)
    assert sorted(os.listdir(tmp_path / "out")) == ["tree", "tree.json"]


def test_same_tree_gives_the_same_hash(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n", "b/c.py": b"2\n"})
    first = export(repo, tmp_path)
    second = export_snapshot(str(repo), "HEAD", tmp_path / "other", clone_cache=tmp_path / "clones")
    assert first.tree_hash == second.tree_hash


def test_url_is_cloned_once_and_brought_up_to_date(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    url = f"file://{repo}"
    assert contents(export(url, tmp_path)) == {"a.py": b"1\n"}
    first = git(repo, "rev-parse", "HEAD")
    write(repo, {"a.py": b"2\n"})
    git(repo, "commit", "-qam", "second")
    git(repo, "branch", "-m", "trunk")
    assert contents(export(url, tmp_path)) == {"a.py": b"2\n"}
    repo.rename(tmp_path / "moved")  # a known commit needs no network
    assert contents(export(url, tmp_path, first)) == {"a.py": b"1\n"}
    assert len(list((tmp_path / "clones").glob("*.git"))) == 1


def test_unreachable_url_is_no_fault_of_the_task_and_is_told_without_its_password(tmp_path):
    with pytest.raises(RepositoryUnreachableError, match="cannot be reached") as caught:
        export("http://user:hunter2@127.0.0.1:9/x.git", tmp_path)
    assert "hunter2" not in str(caught.value) + caught.value.hint
    assert list((tmp_path / "clones").glob("*.git")) == []


def test_url_that_leads_to_no_repository_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be cloned"):
        export(f"file://{tmp_path}/nowhere", tmp_path)


def test_stalled_server_is_given_up(tmp_path):
    import socket

    from pipeline.workspace.clone import clone

    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        url = f"git://127.0.0.1:{server.getsockname()[1]}/x.git"
        with pytest.raises(RepositoryUnreachableError, match="did not answer within"):
            clone(url, None, tmp_path / "clones", timeout_seconds=0.5)


@pytest.mark.parametrize("url", ["ext::sh -c id", "fd::17/foo", "foo::bar", "gopher://x/y"])
def test_transport_that_runs_programs_is_refused(tmp_path, url):
    with pytest.raises(InputError, match="transport"):
        export(url, tmp_path)


def test_git_variables_of_the_caller_do_not_leak_in(tmp_path, monkeypatch):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    other = make_repository(tmp_path / "other", {"b.py": b"2\n"})
    for name, value in {"GIT_DIR": ".git", "GIT_WORK_TREE": "", "GIT_INDEX_FILE": ".git/index"}.items():
        monkeypatch.setenv(name, str(other / value))
    snapshot = export(repo, tmp_path)
    assert snapshot.paths == ("a.py",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
def test_repository_of_another_user_is_exported(tmp_path):
    repo = make_repository(tmp_path / "repo", {"a.py": b"1\n"})
    for path in (repo, *repo.rglob("*")):
        os.chown(path, 12345, 12345)
    with pytest.raises(
        subprocess.CalledProcessError
    ):  # git itself refuses: its configuration might be hostile
        git(repo, "status")
    assert contents(export(repo, tmp_path)) == {"a.py": b"1\n"}


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (errno.ENOSPC, EnvironmentBrokenError, "disk is full"),
        (errno.EDQUOT, EnvironmentBrokenError, "disk is full"),
        (errno.EACCES, InputError, r"^a\.py cannot be read"),
        (errno.EIO, EnvironmentBrokenError, "cannot be read or written"),
    ],
)
def test_failures_of_the_system_say_what_to_do(code, kind, said):
    error = explained(OSError(code, os.strerror(code), b"a.py"), Path("/x"))
    assert type(error) is kind
    assert re.search(said, str(error))
