"""Keeps bare clones of the repositories that are given by URL, so that each is fetched once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock
from tenacity import (
    retry,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
)

from pipeline.exceptions import EnvironmentBrokenError, InputError, RepositoryUnreachableError
from pipeline.workspace.git import Git, gitpython

_ALLOWED_PROTOCOLS = "file:git:http:https:ssh"
_SCP_LIKE = re.compile(r"^[\w.-]+@[\w.-]+:(?!//)")
_NUM_ATTEMPTS = 3
_RETRY_SECONDS = 30.0  # an attempt that took longer than this is not followed by another
# What git, curl and ssh say where the network or the server is at fault, and not the address or the user.
_UNREACHABLE = re.compile(
    r"could not resolve|couldn't resolve|name or service not known|temporary failure in name resolution"
    r"|failed to connect|could not connect|couldn't connect|unable to connect"
    r"|connection (?:refused|reset|timed out)"
    r"|network is unreachable|no route to host|timed out"
    r"|early eof|remote end hung up|rpc failed"
    r"|returned error: (?:429|5\d\d)|gnutls|openssl|ssl_|recv failure",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)(?:://|::)")


def is_url(repo: str) -> bool:
    """Say whether `repo` is a git URL and not a path.

    Raises:
        InputError: a URL whose transport runs a program of the caller's choice (`ext::`, `fd::`).
    """
    scheme = _SCHEME.match(repo)
    if scheme and ("::" in scheme[0] or scheme[1].lower() not in _ALLOWED_PROTOCOLS.split(":")):
        raise InputError(f"the transport {scheme[1]!r} is not allowed", hint="use https, ssh, git or file")
    return bool(scheme or _SCP_LIKE.match(repo))


def clone(url: str, commit: str | None, cache: Path, timeout_seconds: float) -> Path:
    """Return a bare clone of `url` that holds `commit`, from the cache where it has it already.

    Without a commit the clone is brought up to date. No hook, filter or submodule of the remote is used.

    Raises:
        InputError: the remote has no such repository, or not for this user.
        RepositoryUnreachableError: the server does not answer, after three attempts.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.git"
    with FileLock(f"{folder}.lock"):
        _update(url, commit, folder, timeout_seconds)
    return folder


@retry(
    retry=retry_if_exception_type(RepositoryUnreachableError),
    stop=stop_after_attempt(_NUM_ATTEMPTS) | stop_after_delay(_RETRY_SECONDS),
    wait=wait_exponential_jitter(multiplier=0.3, max=5.0),
    reraise=True,
)
def _update(url: str, commit: str | None, folder: Path, timeout_seconds: float) -> None:
    if not folder.is_dir():
        _clone_new(url, folder, timeout_seconds)
    elif commit is None or not _has(folder, commit):
        _fetch(url, folder, timeout_seconds)
    if commit is not None and not _has(folder, commit):
        _fetch_commit(url, folder, commit, timeout_seconds)


def _clone_new(url: str, folder: Path, timeout_seconds: float) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        args = ("clone", "--bare", "--quiet", "--template=", "--", url, str(partial))
        _remote(Git(folder.parent, _env()), args, url, timeout_seconds)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _fetch(url: str, folder: Path, timeout_seconds: float) -> None:
    git = Git(folder, _env(folder))
    refspecs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    _remote(git, ("fetch", "--quiet", "--prune", "--", url, *refspecs), url, timeout_seconds)
    # The remote's default branch may have changed its name.
    out = _remote(git, ("ls-remote", "--symref", "--", url, "HEAD"), url, timeout_seconds)
    branch = re.match(rb"ref: (refs/heads/\S+)\tHEAD", out)
    if branch:
        git.run("symbolic-ref", "HEAD", branch.group(1).decode())


def _fetch_commit(url: str, folder: Path, commit: str, timeout_seconds: float) -> None:
    """Ask for a commit that no branch leads to; many servers give it by its full name."""
    if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):
        git = Git(folder, _env(folder))
        args = ("fetch", "--quiet", "--", url, commit)
        git.run(*args, check=False, timeout_seconds=timeout_seconds)


def _has(folder: Path, commit: str) -> bool:
    if commit.startswith("-"):
        return False
    code, _, _ = Git(folder, _env(folder)).run(
        "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", check=False
    )
    return code == 0


def _env(folder: Path | None = None) -> dict[str, str]:
    env = {"GIT_ALLOW_PROTOCOL": _ALLOWED_PROTOCOLS}
    if folder is not None:
        env["GIT_DIR"] = str(folder)
    return env


def _remote(git: Git, args: tuple[str, ...], url: str, timeout_seconds: float) -> bytes:
    shown = without_password(url)
    try:
        return git.run(*args, timeout_seconds=timeout_seconds)[1]
    except gitpython().GitCommandError as exc:
        detail = _last_line(str(exc.stderr).replace(url, shown))
        if "No space left" in str(exc.stderr):
            raise EnvironmentBrokenError("the disk is full: cannot clone", hint="free some space") from exc
        if "did not complete in" in detail:
            raise RepositoryUnreachableError(
                f"{shown} did not answer within {timeout_seconds:g} s",
                hint="check the network, or clone it yourself",
            ) from exc
        if _UNREACHABLE.search(str(exc.stderr)):
            raise RepositoryUnreachableError(
                f"{shown} cannot be reached: {detail}", hint="check the URL and the network"
            ) from None  # the cause's text holds the URL with its password
        raise InputError(
            f"{shown} cannot be cloned: {detail}",
            hint="check the URL and your access; passwords are not asked for: use a credential helper",
        ) from None  # the cause's text holds the URL with its password


def without_password(url: str) -> str:
    """Return the URL as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None and not (parts.scheme.startswith("http") and parts.username):
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _last_line(text: str) -> str:
    lines = [line.strip().strip("'") for line in text.splitlines() if line.strip().strip("'")]
    named = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    return (named or lines or [os.strerror(0)])[-1]
