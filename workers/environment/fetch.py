"""Collects the wheels of an environment, building in the sandbox what the index has as source only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pipeline.exceptions import PrepareError
from workers.environment.install import Installer
from workers.environment.wheels import ConflictError, NoWheelError

# A project that names no build system is built by setuptools: one that still has pkg_resources, which old
# setup.py files import. Backends ask for `editables` without declaring it.
_BUILD_REQUIREMENTS = ("setuptools<82", "wheel", "editables")
_MAX_SOURCE_BUILDS = 20


class PackageIndex(Protocol):
    """Where distributions come from; `PipIndex` says what each method promises."""

    async def download_wheels(
        self,
        requirements: Sequence[str],
        constraints: Sequence[str],
        wheelhouse: Path,
        *,
        options: Sequence[str],
        on_progress: Callable[[str], None],
    ) -> None:
        """Fill the wheelhouse."""
        ...

    async def download_source(
        self, requirement: str, folder: Path, *, options: Sequence[str], on_progress: Callable[[str], None]
    ) -> Path:
        """Return a source archive in `folder`."""
        ...


class Fetcher:
    """Downloads into an installer's wheelhouse, building from source what has no wheel."""

    def __init__(
        self,
        index: PackageIndex,
        installer: Installer,
        options: Sequence[str],
        report: Callable[[str], None],
    ) -> None:
        self._index = index
        self._installer = installer
        self._options = options
        self._report = report

    async def wheels(self, requirements: Sequence[str], constraints: Sequence[str] = ()) -> None:
        """Download wheels for the requirements.

        Raises:
            PrepareError: some requirement cannot be had; the message names it.
        """
        built: set[str] = set()
        for _ in range(_MAX_SOURCE_BUILDS):
            try:
                await self._download(requirements, constraints)
                return
            except NoWheelError as exc:
                await self._build(exc, built)
        raise PrepareError(f"more than {_MAX_SOURCE_BUILDS} requirements have no wheel")

    async def build_requirements(self, requirements: Sequence[str]) -> None:
        """Download what builds a project, as far as it can be had: an installation can do without."""
        await self._download(_BUILD_REQUIREMENTS, ())
        if requirements:
            try:
                await self._download(requirements, ())
            except (NoWheelError, ConflictError) as exc:
                self._report(f"warning: what builds the project cannot be had: {exc}")

    async def _download(self, requirements: Sequence[str], constraints: Sequence[str]) -> None:
        self._report(f"downloading wheels for {len(requirements)} requirements")
        await self._index.download_wheels(
            requirements,
            constraints,
            self._installer.wheelhouse,
            options=self._options,
            on_progress=self._report,
        )

    async def _build(self, missing: NoWheelError, built: set[str]) -> None:
        try:
            name = canonicalize_name(Requirement(missing.requirement).name)
        except InvalidRequirement:
            raise missing from None
        if name in built:
            raise missing
        built.add(name)
        archive = await self._index.download_source(
            missing.requirement, self._installer.sources, options=self._options, on_progress=self._report
        )
        self._report(f"building {archive.name} in the sandbox, without network")
        await self._download(_BUILD_REQUIREMENTS, ())
        await self._installer.build_wheel(archive)
