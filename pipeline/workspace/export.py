"""Exports a commit or the working tree as a plain folder: no history, every byte as it was."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.exceptions import InputError
from pipeline.runs import write_atomically
from pipeline.snapshot import Snapshot
from pipeline.workspace.clone import clone, is_url
from pipeline.workspace.git import Git, gitpython, locate_repository, open_scratch, open_view
from pipeline.workspace.problems import explained, first_error
from pipeline.workspace.tree import TreeFile, TreeWriter

_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_MAX_LFS_POINTER_BYTES = 1024
_DEFAULT_CLONE_TIMEOUT_SECONDS = 900.0


def export_snapshot(
    repo: str,
    base_commit: str | None,
    destination: Path,
    *,
    test_patch: str = "",
    clone_cache: Path,
    clone_timeout_seconds: float = _DEFAULT_CLONE_TIMEOUT_SECONDS,
) -> Snapshot:
    """Write the tree of `repo` (a path or a git URL) at `base_commit` to `destination` and return it.

    Without a commit a path gives its working tree as it stands (tracked, and untracked but not ignored files)
    and a URL its HEAD. `test_patch` is applied on top. An export that was killed is never taken for a whole
    one: `load_snapshot` opens only finished ones.

    Raises:
        InputError: no such repository or commit, not readable, or the test patch does not apply.
        EnvironmentBrokenError: git is missing, or the disk is full.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        if is_url(repo):
            source = clone(repo, base_commit, clone_cache, clone_timeout_seconds)
            base_commit = base_commit or "HEAD"
        else:
            source = Path(repo).expanduser().absolute()
        return _publish(
            destination, lambda folder: _write_tree(source, base_commit, folder, test_patch=test_patch)
        )
    except gitpython().GitCommandError as exc:
        raise InputError(
            f"git cannot read {repo}: {first_error(exc)}", hint="`git fsck` says more; a fresh clone mends it"
        ) from exc
    except OSError as exc:
        raise explained(exc, destination.parent) from exc


def load_snapshot(destination: Path) -> Snapshot | None:
    """Return the snapshot that `export_snapshot` finished at `destination`, or None when there is none."""
    try:
        facts = json.loads(_marker(destination).read_text())
    except FileNotFoundError:
        return None
    if not destination.is_dir():
        return None
    return Snapshot(destination, facts["commit"], facts["num_uncommitted"], tuple(facts["warnings"]))


def _marker(destination: Path) -> Path:
    return destination.with_name(destination.name + ".json")


def _publish(destination: Path, write: Callable[[Path], Snapshot]) -> Snapshot:
    """Write beside the destination, move into place, and only then say that it is finished."""
    for left_over in destination.parent.glob(f".{destination.name}.partial-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-", dir=destination.parent))
    try:
        written = write(partial)
        _marker(destination).unlink(missing_ok=True)
        if destination.exists():
            shutil.rmtree(destination)
        partial.rename(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    snapshot = Snapshot(destination, written.commit, written.num_uncommitted, written.warnings)
    facts = {
        "commit": snapshot.commit,
        "num_uncommitted": snapshot.num_uncommitted,
        "warnings": snapshot.warnings,
    }
    write_atomically(_marker(destination), json.dumps(facts).encode())
    return snapshot


def _write_tree(source: Path, base_commit: str | None, folder: Path, *, test_patch: str) -> Snapshot:
    repository = locate_repository(source)
    writer = TreeWriter(folder)
    with open_view(repository) as git:
        if base_commit is not None:
            commit = _resolve(git, base_commit, source)
            num_uncommitted = 0
            _export_commit(git, commit, writer)
        elif repository.work_tree is None:
            raise InputError(
                f"{source} is a bare repository: it has no working tree", hint="name a commit with the task"
            )
        else:
            commit = _resolve_head(git)
            num_uncommitted = _export_work_tree(git, repository.work_tree, writer)
    writer.write_links()
    if test_patch:
        _apply_test_patch(folder, test_patch)
    return Snapshot(folder, commit, num_uncommitted, (*writer.warnings(), *_lfs_warning(folder, writer)))


def _resolve(git: Git, revision: str, source: Path) -> str:
    unknown = InputError(
        f"{source} has no commit {revision!r}",
        hint="check the name; a shallow clone gets the rest by `git fetch --unshallow`",
    )
    if revision.startswith("-") or "\0" in revision:
        raise unknown
    code, out, _ = git.run("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False)
    if code != 0:
        raise unknown
    return out.decode().strip()


def _resolve_head(git: Git) -> str:
    """Return the commit of HEAD, or "" in a repository without commits."""
    _, out, _ = git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False)
    return out.decode().strip()


def _export_commit(git: Git, commit: str, writer: TreeWriter) -> None:
    files = []
    _, listing, _ = git.run("ls-tree", "-r", "-z", "--full-tree", commit)
    for record in _records(listing):
        description, _, name = record.partition(b"\t")
        mode, kind, object_id = description.split()
        if kind == b"commit":
            writer.skip_submodule(name)
        else:
            files.append((TreeFile(name, mode), object_id))
    # One process for all blobs. `git archive` would convert line ends and expand keywords.
    with git.stream(
        "cat-file", "--batch", "--buffer", stdin=b"".join(object_id + b"\n" for _, object_id in files)
    ) as blobs:
        for file, object_id in files:
            header = blobs.readline().split()
            if len(header) != 3 or header[0] != object_id:
                raise InputError(
                    f"the repository lacks the content of {os.fsdecode(file.name)}",
                    hint="it is damaged, or a partial clone: clone it in full",
                )
            writer.write_stream(file, blobs, int(header[2]))
            blobs.read(1)  # the line end that follows each blob


def _export_work_tree(git: Git, work_tree: Path, writer: TreeWriter) -> int:
    """Copy the tracked files that exist and the untracked ones; return how many differ from HEAD."""
    _, listing, _ = git.run("ls-files", "-z", "--stage")
    tracked = {}
    for record in _records(listing):
        description, _, name = record.partition(b"\t")
        tracked[name] = description.split()[0]
    for name, mode in tracked.items():
        if mode == b"160000":
            writer.skip_submodule(name)
        else:
            writer.copy(name, work_tree)
    _, listing, _ = git.run("ls-files", "-z", "--others", "--exclude-standard")
    untracked = [name for name in _records(listing) if writer.copy_untracked(name, work_tree)]
    status = (
        "status",
        "--porcelain=v1",
        "-z",
        "--untracked-files=no",
        "--ignore-submodules=all",
        "--no-renames",
    )
    _, listing, _ = git.run(*status)
    return len(_records(listing)) + len(untracked)


def _records(listing: bytes) -> list[bytes]:
    return [record for record in listing.split(b"\0") if record]


def _apply_test_patch(folder: Path, test_patch: str) -> None:
    with open_scratch(folder) as git:
        try:
            git.run("apply", "--whitespace=nowarn", "-", stdin=test_patch.encode("utf-8", "surrogateescape"))
        except gitpython().GitCommandError as exc:
            raise InputError(
                f"the task's test patch does not apply: {first_error(exc)}",
                hint="is it made against the task's base commit?",
            ) from exc


def _lfs_warning(folder: Path, writer: TreeWriter) -> Iterable[str]:
    pointers = [name for name in writer.small_files if _is_lfs_pointer(folder / os.fsdecode(name))]
    if pointers:
        yield (
            f"{len(pointers)} files are Git LFS pointers, not content (first: {os.fsdecode(pointers[0])});"
            " run `git lfs pull` if the tests need them"
        )


def _is_lfs_pointer(path: Path) -> bool:
    return (
        path.is_file()
        and path.stat().st_size <= _MAX_LFS_POINTER_BYTES
        and path.read_bytes().startswith(_LFS_POINTER)
    )
