"""What the sandbox tests share: layers, requests, and a look at what runs on the host."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import psutil

from pipeline.core import SandboxLimits, SandboxRequest
from workers.sandbox import cgroups, docker_profile

WAIT_SECONDS = 30


def layer(files: Mapping[str, bytes] | None = None, members: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    """Return a tar of regular files, after the bare members given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member)
        for name, content in (files or {}).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Return a tar member without content."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, target, 0o755
    return made


def shell(script: str, *args: str, **fields: Any) -> SandboxRequest:
    """Return a request for a shell script."""
    return SandboxRequest(argv=("sh", "-c", script, "sh", *args), **fields)


def python(code: str, *args: str, **fields: Any) -> SandboxRequest:
    """Return a request for a Python program."""
    return SandboxRequest(argv=("python3", "-c", code, *args), **fields)


def limits(**fields: Any) -> SandboxLimits:
    """Return limits small enough for a test."""
    return SandboxLimits(**{"wall_seconds": 30.0, "memory_bytes": 256 << 20, "disk_bytes": 64 << 20} | fields)


def token() -> str:
    """Return a word that marks the processes of one test on the host."""
    return f"token-{uuid.uuid4().hex}"


def processes(word: str) -> list[psutil.Process]:
    """Return the host's processes that have the word as an argument of their own."""
    return [process for process, words in _running() if word in words]


def commands(word: str) -> list[psutil.Process]:
    """Return those that are a run's own Python command, and not what starts it."""
    return [process for process, words in _running() if word in words and words[0] == "python3"]


def _running() -> Iterator[tuple[psutil.Process, list[str]]]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it may end at any moment
            yield process, process.cmdline()


def groups_of(owner: str) -> list[Path]:
    """Return the control groups that an owner's runs have now."""
    parents = set(cgroups.parents().values())
    return [folder for parent in parents for folder in parent.glob(f"{cgroups.PREFIX}{owner}-*")]


def containers_of(client: docker.DockerClient, owner: str) -> list[str]:
    """Return the names of an owner's containers, those that have ended included."""
    label = f"{docker_profile.OWNER_LABEL}={owner}"
    return [str(found.name) for found in client.containers.list(all=True, filters={"label": label})]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    give_up_at = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, "waited in vain"
        await asyncio.sleep(0.02)
