"""Makes a plain tree a git repository with one commit: no history, no byte code, nothing else to find."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from pipeline.exceptions import EnvironmentBrokenError

# A fixed author and date, so that the same tree always makes the same commit.
_GIT_ENV = {
    "GIT_AUTHOR_NAME": "benchmark",
    "GIT_AUTHOR_EMAIL": "benchmark@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00+0000",
    "GIT_COMMITTER_NAME": "benchmark",
    "GIT_COMMITTER_EMAIL": "benchmark@localhost",
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00+0000",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}
_NOTHING_CONVERTED = "* -text -eol -filter -ident -working-tree-encoding\n"
_BYTE_CODE = (".pyc", ".pyo")


def clean(tree: Path) -> None:
    """Remove what could show other sources, or run on the host: byte code and git's own folders."""
    for folder, names, files in os.walk(tree, topdown=True):
        for name in [*names, *files]:
            path = Path(folder, name)
            if name.lower() == ".git" or name == "__pycache__" or name.endswith(_BYTE_CODE):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        names[:] = [name for name in names if Path(folder, name).is_dir()]


def make_repository(tree: Path, message: str = "Import") -> None:
    """Make `tree` a git repository with everything in it in one commit, always the same.

    Raises:
        EnvironmentBrokenError: git is missing or fails.
    """
    clean(tree)
    _git(tree, "init", "--quiet", "--initial-branch=main", "--template=")
    (tree / ".git" / "info").mkdir(exist_ok=True)
    (tree / ".git" / "info" / "attributes").write_text(_NOTHING_CONVERTED)
    _git(tree, "config", "core.autocrlf", "false")
    _git(tree, "add", "--all", "--force")  # an sdist may ship ignored files
    _git(tree, "commit", "--quiet", "--no-verify", "--allow-empty", f"--message={message}")


def head_of(repo: Path) -> str:
    """Return the id of the repository's commit."""
    return _git(repo, "rev-parse", "HEAD").strip()


def _git(repo: Path, *arguments: str) -> str:
    argv = ["git", "-c", f"core.hooksPath={os.devnull}", "-C", str(repo), *arguments]
    # Nothing of a git that may have called us: GIT_DIR would make it work on another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(argv, env={**env, **_GIT_ENV}, capture_output=True, text=True, check=True)
    except FileNotFoundError as exc:
        raise EnvironmentBrokenError("git is missing", hint="apt-get install git") from exc
    except subprocess.CalledProcessError as exc:
        raise EnvironmentBrokenError(f"git {arguments[0]} failed in {repo}: {exc.stderr.strip()}") from exc
    return done.stdout
