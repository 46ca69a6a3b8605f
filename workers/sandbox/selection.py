"""Chooses the sandbox: Docker where an engine answers, else bubblewrap. And the image for a Python."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.config import SandboxSection
from pipeline.exceptions import EnvironmentBrokenError, SandboxError
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox
from workers.sandbox.docker_sandbox import DockerSandbox, connect
from workers.sandbox.image import DEFAULT_TAG, ensure_image, find_image
from workers.sandbox.image_table import DEFAULT_PYTHON, fitting, of_python
from workers.sandbox.profiles import HARDENED, Profile
from workers.sandbox.reaper import reap_orphans

if TYPE_CHECKING:
    import docker

SandboxKind = Literal["auto", "docker", "bubblewrap"]


async def select_sandbox(
    kind: SandboxKind,
    *,
    home: Path,
    image: str = DEFAULT_TAG,
    profile: Profile = HARDENED,
    num_warm: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> DockerSandbox | BubblewrapSandbox:
    """Return a sandbox that works, after removing what dead processes left; builds a missing image.

    With "auto", an engine that answers but whose image cannot be had falls back to bubblewrap, and says so.

    Raises:
        EnvironmentBrokenError: what was asked for is not to be had on this machine.
    """
    say = on_progress or (lambda _: None)
    await reap_orphans()
    if kind == "bubblewrap":
        return BubblewrapSandbox(profile, num_warm=num_warm)
    try:
        client, image_id = await asyncio.to_thread(_docker, home, image, say)
    except (EnvironmentBrokenError, SandboxError) as error:
        if kind == "docker":
            raise
        say(f"no Docker sandbox ({error}); using bubblewrap")
        return BubblewrapSandbox(profile, num_warm=num_warm)
    return DockerSandbox(client, image_id, profile, num_warm=num_warm)


def image_tag(settings: SandboxSection) -> str:
    """Return the tag of the image that the settings ask Docker for."""
    python = DEFAULT_PYTHON if settings.python == "auto" else settings.python
    return settings.image or of_python(python).tag


async def image_for(requires_python: str, *, home: Path, on_progress: Callable[[str], None]) -> str:
    """Return the id of an image whose Python a `requires-python` allows, or "" where none can be had.

    One that is there goes before one that has to be built, then the newest Python.
    """
    return await asyncio.to_thread(_image_for, requires_python, home, on_progress)


def _image_for(requires_python: str, home: Path, say: Callable[[str], None]) -> str:
    specs = fitting(requires_python)
    try:
        with contextlib.closing(connect()) as client:
            ready = [spec for spec in specs if find_image(client, home, spec)]
            for spec in (*ready, *(spec for spec in specs if spec not in ready)):
                try:
                    return ensure_image(client, home, spec.tag, say).image_id
                except (EnvironmentBrokenError, SandboxError) as error:
                    say(f"no Python {spec.python}: {error}")
    except EnvironmentBrokenError as error:
        say(str(error))
    return ""


def _docker(home: Path, image: str, say: Callable[[str], None]) -> tuple[docker.DockerClient, str]:
    client = connect()
    return client, ensure_image(client, home, image, say).image_id
