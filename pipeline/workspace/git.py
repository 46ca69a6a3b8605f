"""Runs git on a repository that may be hostile: through a view with our configuration in place of its own.

A repository's configuration can name programs (core.fsmonitor, filters, hooks, ssh commands, promisor
remotes). Git never acts on it: it is given a git folder of ours that borrows objects, references and index.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.exceptions import EnvironmentBrokenError, InputError
from pipeline.owner import owned_folder

# Taken over from the repository's configuration: they say how its files are stored and name no program.
_HARMLESS_KEYS = ("core.filemode", "core.autocrlf", "core.eol", "core.ignorecase", "core.symlinks")
_FORMAT_KEYS = ("extensions.objectformat", "extensions.refstorage")
_BORROWED = ("refs", "packed-refs", "reftable", "shallow")

# Set on every command, also against what the user's own configuration says.
_SAFE_SETTINGS = {
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.hooksPath": os.devnull,
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "maintenance.auto": "false",
    "gc.auto": "0",
}
_SAFE_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",  # reading a repository must not write its index
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "false",  # the program of that name: every question is answered by failing
    "SSH_ASKPASS_REQUIRE": "force",
}


@dataclass(frozen=True)
class Repository:
    """Where a repository's parts lie. For a linked worktree the three folders differ."""

    work_tree: Path | None  # None: bare
    git_dir: Path  # HEAD and index
    common_dir: Path  # objects, references, configuration


class Git:
    """Runs git commands in one folder with one environment."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._git = gitpython().Git(str(folder))
        self._env = {**_SAFE_ENVIRONMENT, **env}

    def run(
        self, *args: str, stdin: bytes = b"", check: bool = True, timeout_seconds: float | None = None
    ) -> tuple[int, bytes, str]:
        """Return exit code, stdout and stderr.

        Raises:
            git.exc.GitCommandError: the exit code is not 0 (unless `check` is false), or the time is over.
        """
        with tempfile.TemporaryFile() as istream:
            istream.write(stdin)
            istream.seek(0)
            code, out, err = self._git.execute(
                _command(args),
                istream=istream,
                env=self._env,
                with_extended_output=True,
                stdout_as_string=False,
                with_exceptions=check,
                strip_newline_in_stdout=False,
                kill_after_timeout=timeout_seconds,
            )
        return code, out, err if isinstance(err, str) else bytes(err).decode("utf-8", "replace")

    @contextmanager
    def stream(self, *args: str, stdin: bytes) -> Iterator[Any]:
        """Yield the command's stdout while it runs; the process is ended on leaving."""
        with tempfile.TemporaryFile() as istream:
            istream.write(stdin)
            istream.seek(0)
            process = self._git.execute(_command(args), istream=istream, env=self._env, as_process=True)
            try:
                yield process.stdout
            finally:
                process.stdout.close()
                process.terminate()
                process.proc.wait()


def gitpython() -> ModuleType:
    """Return the GitPython module, imported late because its import runs git.

    Raises:
        EnvironmentBrokenError: git is not installed.
    """
    try:
        import git
    except ImportError as exc:
        raise EnvironmentBrokenError(
            "git cannot be run", hint="install git (Debian: apt install git)"
        ) from exc
    return git


def locate_repository(path: Path) -> Repository:
    """Return the parts of the repository whose root is `path`.

    Raises:
        InputError: no such folder, not readable, or not the root of a git repository.
    """
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {problem}", hint="give the path or the URL of a git repository")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{path} cannot be read", hint="check its permissions")
    dot_git = path / ".git"
    if dot_git.is_dir():
        return _checked(Repository(path, dot_git, dot_git))
    if dot_git.is_file():
        return _checked(_linked_worktree(path, dot_git))
    if _is_git_dir(path):
        return Repository(None, path, path)
    raise InputError(f"{path} is not a git repository", hint=_not_a_repository_hint(path))


@contextmanager
def open_view(repository: Repository) -> Iterator[Git]:
    """Yield git on a view of the repository that reads nothing of its configuration."""
    with owned_folder("view") as view:
        _fill_view(view, repository)
        env = {
            "GIT_DIR": str(view),
            "GIT_COMMON_DIR": str(view),
            "GIT_WORK_TREE": str(repository.work_tree or view),
            "GIT_INDEX_FILE": str(repository.git_dir / "index"),
            "GIT_OBJECT_DIRECTORY": str((repository.common_dir / "objects").resolve()),
            "GIT_ALLOW_PROTOCOL": "none",
        }
        _take_over_settings(Git(view, env), view, repository)
        yield Git(repository.work_tree or view, env)


@contextmanager
def open_scratch(folder: Path) -> Iterator[Git]:
    """Yield git for `git apply` on a plain folder: no attribute of the tree converts a byte."""
    with owned_folder("view") as view:
        for name in ("objects", "refs", "info"):
            (view / name).mkdir()
        (view / "HEAD").write_text("ref: refs/heads/main\n")
        (view / "info" / "attributes").write_text("* -text -eol -filter -ident -working-tree-encoding\n")
        env = {"GIT_DIR": str(view), "GIT_COMMON_DIR": str(view), "GIT_WORK_TREE": str(folder)}
        nothing = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ALLOW_PROTOCOL": "none"}
        yield Git(folder, {**env, **nothing, "GIT_OBJECT_DIRECTORY": str(view / "objects")})


def _command(args: tuple[str, ...]) -> list[str]:
    settings = [part for key, value in _SAFE_SETTINGS.items() for part in ("-c", f"{key}={value}")]
    return ["git", *settings, *args]


def _is_git_dir(path: Path) -> bool:
    return (path / "HEAD").is_file() and (path / "objects").is_dir()


def _checked(repository: Repository) -> Repository:
    if not os.access(repository.git_dir, os.R_OK | os.X_OK):
        raise InputError(f"{repository.git_dir} cannot be read", hint="check its permissions")
    if not (repository.git_dir / "HEAD").is_file() or not (repository.common_dir / "objects").is_dir():
        raise InputError(
            f"{repository.git_dir} is not a usable git folder",
            hint="the repository is damaged: clone it again",
        )
    return repository


def _linked_worktree(path: Path, dot_git: Path) -> Repository:
    """Follow the `.git` file of a linked worktree or a submodule."""
    first, _, target = dot_git.read_text(errors="replace").partition(":")
    git_dir = path / target.strip()
    if first != "gitdir" or not git_dir.is_dir():
        raise InputError(f"{dot_git} points to no git folder", hint="git worktree repair may mend it")
    pointer = git_dir / "commondir"
    common_dir = git_dir / pointer.read_text().strip() if pointer.is_file() else git_dir
    return Repository(path, git_dir, common_dir)


def _not_a_repository_hint(path: Path) -> str:
    for parent in path.resolve().parents:
        if (parent / ".git").exists():
            return f"it lies inside the repository {parent}: give that path"
    return "run `git init` there, or give the path of a repository"


def _fill_view(view: Path, repository: Repository) -> None:
    (view / "HEAD").write_bytes((repository.git_dir / "HEAD").read_bytes())
    for name in _BORROWED:
        if (repository.common_dir / name).exists():
            (view / name).symlink_to((repository.common_dir / name).resolve())
    for shared_index in repository.git_dir.glob("sharedindex.*"):
        (view / shared_index.name).symlink_to(shared_index.resolve())
    if not (view / "refs").exists():
        (view / "refs").mkdir()
    exclude = repository.common_dir / "info" / "exclude"
    (view / "info").mkdir()
    if exclude.is_file():
        (view / "info" / "exclude").write_bytes(exclude.read_bytes())


def _take_over_settings(git: Git, view: Path, repository: Repository) -> None:
    config = repository.common_dir / "config"
    if not config.is_file():
        return
    _, listing, _ = git.run(
        "config", "--file", str(config.resolve()), "--no-includes", "-z", "--list", check=False
    )
    found = dict(
        item.partition("\n")[::2] for item in os.fsdecode(listing).split("\0") if "\n" in item
    )  # keys come lowered
    kept = {key: found[key] for key in (*_HARMLESS_KEYS, *_FORMAT_KEYS) if key in found}
    if any(key in _FORMAT_KEYS for key in kept):
        kept["core.repositoryformatversion"] = "1"
    sections = ("[{}]\n\t{} = {}\n".format(*key.split("."), _quoted(value)) for key, value in kept.items())
    (view / "config").write_text("".join(sections))


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
