"""Prepares a project's environment: with network no foreign code runs, and foreign code has no network.

Environments are cached by everything that decides them and moved into place whole, so that a killed
preparation is never taken for a finished one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from filelock import AsyncFileLock
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from pipeline.core import Mount, PreparedEnvironment
from pipeline.exceptions import InputError, PrepareError
from pipeline.owner import Owner, this_process
from pipeline.protocols import Sandbox
from pipeline.runs import write_atomically
from pipeline.snapshot import Snapshot
from workers.environment.fetch import Fetcher, PackageIndex
from workers.environment.install import ENVIRONMENT, PYTHON, Installer
from workers.environment.interpreter import Interpreter, probe
from workers.environment.requirements import ProjectRequirements, detect
from workers.environment.wheels import PipIndex

_BUILDER_VERSION = "2"  # raise it when the same input would give another environment
_OWN_REQUIREMENTS = ("pytest", "pytest-cov")  # what runs and watches the tests
# The pip of an older Python cannot install a project that has no setup.py to run from its sources.
_OLD_PYTHON, _NEWER_PIP = Version("3.10"), "pip>=21.3"
_MARKER = "prepared.json"
_PARTIAL = ".partial-"  # in the name of a folder that is being filled; its owner follows
_GENERATED = "generated.tar"


class PythonEnvironmentBuilder:
    """Implements `pipeline.protocols.EnvironmentBuilder` for any sandbox that has a Python with `venv`."""

    def __init__(
        self,
        sandbox: Sandbox,
        cache_dir: Path,
        *,
        image: str = "",
        image_for: Callable[[str], Awaitable[str]] | None = None,
        python: str = "python3",
        timeout_seconds: float = 900.0,
        extra_requirements: Sequence[str] = (),
        on_progress: Callable[[str], None] | None = None,
        index: PackageIndex | None = None,
    ) -> None:
        """Keep environments under `cache_dir`; `image` is what the sandbox runs on, if it has images.

        `image_for` is asked for another image where a project's `requires-python` refuses the sandbox's
        Python; it may answer "".

        Raises:
            InputError: an extra requirement cannot be read.
        """
        for line in extra_requirements:
            _check_extra(line)
        self._sandbox = sandbox
        self._cache_dir = cache_dir
        self._image = image
        self._image_for = image_for
        self._images: dict[str, str] = {}  # by requires-python, as they were answered
        self._python = python
        self._timeout_seconds = timeout_seconds
        self._extra_requirements = tuple(extra_requirements)
        self._index: PackageIndex = index or PipIndex()
        self._report = on_progress or (lambda _line: None)

    async def prepare(self, tree: Path) -> PreparedEnvironment:
        """Return the environment for the tree at `tree`; see `pipeline.protocols.EnvironmentBuilder`.

        Raises:
            PrepareError: the requirements cannot be read or installed; the message says which.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._prepare(tree)
        except TimeoutError as exc:
            raise PrepareError(
                f"the environment was not ready after {self._timeout_seconds:g} s",
                hint="give more time with sandbox.prepare_timeout_seconds; pip keeps what it downloaded",
            ) from exc
        except OSError as exc:
            raise PrepareError(f"the environment cannot be written: {exc}", hint="check the disk") from exc

    async def _prepare(self, tree: Path) -> PreparedEnvironment:
        found = await asyncio.to_thread(detect, tree)
        interpreter = await self._interpreter(found.requires_python)
        for warning in found.warnings:
            self._report(f"warning: {warning}")
        if not interpreter.fits(found.requires_python):
            self._report(
                f"warning: the project asks for Python {found.requires_python}, the sandbox has "
                f"{interpreter.version}; name another with sandbox.python"
            )
        environment_id = self._environment_id(found, interpreter)
        folder = self._cache_dir / environment_id
        self._cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        await asyncio.to_thread(_clear_orphans, self._cache_dir)
        async with AsyncFileLock(f"{folder}.lock"):
            if not _is_whole(folder):
                await self._build(folder, tree, found, interpreter)
        return _opened(folder, interpreter)

    async def _interpreter(self, requires_python: str) -> Interpreter:
        """Return the sandbox's own interpreter, or one of another image where the project refuses it."""
        own = await probe(self._sandbox, self._python)
        if self._image_for is None or own.fits(requires_python):
            return own
        if requires_python not in self._images:
            self._images[requires_python] = await self._image_for(requires_python)
        image = self._images[requires_python]
        return await probe(self._sandbox, self._python, image) if image else own

    def _environment_id(self, found: ProjectRequirements, interpreter: Interpreter) -> str:
        digest = hashlib.sha256()
        own = self._own_requirements(interpreter)
        for part in (_BUILDER_VERSION, self._sandbox.name, self._image, interpreter.describe(), *own):
            digest.update(part.encode() + b"\0")
        for path, content in found.fingerprint:
            digest.update(os.fsencode(path) + b"\0" + content.encode() + b"\0")
        return digest.hexdigest()[:32]

    async def _build(
        self, folder: Path, tree: Path, found: ProjectRequirements, interpreter: Interpreter
    ) -> None:
        _clear(folder)
        prefix = f".{folder.name}{_PARTIAL}{this_process()}-"
        partial = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            await self._fill(partial, tree, found, interpreter)
            os.rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    async def _fill(
        self, partial: Path, tree: Path, found: ProjectRequirements, interpreter: Interpreter
    ) -> None:
        installer = Installer(
            sandbox=self._sandbox,
            python=self._python,
            environment=_folder(partial / "environment"),
            wheelhouse=_folder(partial / "wheelhouse"),
            sources=_folder(partial / "sources"),
            built=_folder(partial / "built"),
            timeout_seconds=self._timeout_seconds,
            image=interpreter.image,
        )
        requirements, constraints = await self._fetch_all(installer, found, interpreter)
        self._report("installing the requirements")
        await installer.install(requirements, constraints)
        generated, runs_from = await self._install_project(installer, tree, found)
        if generated:
            (partial / _GENERATED).write_bytes(generated)
        for name in ("wheelhouse", "sources", "built"):
            shutil.rmtree(partial / name, ignore_errors=True)
        facts = {"python_path": runs_from, "requirements": requirements}
        write_atomically(partial / _MARKER, json.dumps(facts, indent=1).encode())

    def _own_requirements(self, interpreter: Interpreter) -> tuple[str, ...]:
        newer_pip = (_NEWER_PIP,) if Version(interpreter.version) < _OLD_PYTHON else ()
        return (*_OWN_REQUIREMENTS, *newer_pip, *self._extra_requirements)

    async def _fetch_all(
        self, installer: Installer, found: ProjectRequirements, interpreter: Interpreter
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Download everything and return it with its constraints.

        Given up are first the versions of a lock file, then the development tier, if they cannot be had.
        """
        fetch = Fetcher(self._index, installer, interpreter.pip_options(), self._report)
        if found.is_installable:
            await fetch.build_requirements(found.build)
        needed, bare = (*found.runtime, *found.test, *self._own_requirements(interpreter)), found.constraints
        whole, pinned = (*needed, *found.development), (*bare, *found.pins)
        *attempts, last = dict.fromkeys([(whole, pinned), (whole, bare), (needed, bare)])
        for requirements, constraints in attempts:
            try:
                await fetch.wheels(requirements, constraints)
                return requirements, constraints
            except PrepareError as exc:
                left_out = "development requirements" if constraints == bare else "versions of its lock file"
                self._report(f"warning: going on without the {left_out}: {exc}")
        await fetch.wheels(*last)
        return last

    async def _install_project(
        self, installer: Installer, tree: Path, found: ProjectRequirements
    ) -> tuple[bytes, str]:
        """Return the files that the project's build made, and the PYTHONPATH to use where it failed."""
        fallback = "/workspace/src:/workspace"
        if not found.is_installable:
            return b"", fallback
        self._report("installing the project")
        try:
            stream = await asyncio.to_thread(lambda: Snapshot(tree, "").tar)
            return await installer.install_project(stream), ""
        except PrepareError as exc:
            self._report(f"warning: {exc}\nits sources are put on the path instead")
            return b"", fallback


def _check_extra(line: str) -> None:
    try:
        requirement = Requirement(line)
    except InvalidRequirement as exc:
        raise InputError(f"not a requirement: {line!r}: {exc}") from exc
    if requirement.url:
        raise InputError(f"an extra requirement comes from the package index, not from a URL: {line!r}")


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _clear(folder: Path) -> None:
    """Remove a broken environment, and what a killed preparation of it left."""
    for left_over in (folder, *folder.parent.glob(f".{folder.name}{_PARTIAL}*")):
        shutil.rmtree(left_over, ignore_errors=True)


def _clear_orphans(cache_dir: Path) -> None:
    """Remove what killed preparations left of environments that nobody may ever ask for again."""
    for partial in cache_dir.glob(f".*{_PARTIAL}*"):
        owner = Owner.parse(partial.name)
        if owner and owner.is_dead:
            shutil.rmtree(partial, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    # The interpreter's link may lead nowhere on the host; that it is there is what counts.
    return (folder / _MARKER).is_file() and os.path.lexists(folder / "environment" / "bin" / "python")


def _opened(folder: Path, interpreter: Interpreter) -> PreparedEnvironment:
    facts = json.loads((folder / _MARKER).read_text())
    env = {"VIRTUAL_ENV": ENVIRONMENT, "PATH": f"{ENVIRONMENT}/bin:{interpreter.search_path}"}
    if facts["python_path"]:
        env["PYTHONPATH"] = facts["python_path"]
    generated = folder / _GENERATED
    return PreparedEnvironment(
        environment_id=folder.name,
        python=PYTHON,
        mounts=(Mount(source=str(folder / "environment"), target=ENVIRONMENT),),
        env=env,
        generated=str(generated) if generated.exists() else "",
        image=interpreter.image,
    )
