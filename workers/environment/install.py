"""Installs into an environment, inside the sandbox and without network: wheels, then the project itself."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import Mount, Outcome, SandboxLimits, SandboxRequest, SandboxResult
from pipeline.exceptions import PrepareError
from pipeline.protocols import Sandbox
from pipeline.snapshot import tar_of
from workers.environment.wheels import tail

ENVIRONMENT = "/environment"  # where runs see it; a virtual environment cannot be moved
PYTHON = f"{ENVIRONMENT}/bin/python"
_WHEELHOUSE = "/wheelhouse"
_SOURCES = "/sources"
_BUILT = "/built"
_GENERATED = "generated.tar"

_MEMORY_BYTES = 4 << 30  # compilers
_OUTPUT_BYTES = 32 << 20  # also the most that a build may leave in the tree
_DISK_BYTES = 2 << 30

_PIP = f"{PYTHON} -m pip --disable-pip-version-check --no-input"
_FROM_WHEELHOUSE = f"--no-index --find-links {_WHEELHOUSE} --no-cache-dir"
_INSTALL = f"""
set -e
"$1" -m venv --clear {ENVIRONMENT}
[ ! -s requirements.txt ] || {_PIP} install {_FROM_WHEELHOUSE} -r requirements.txt -c constraints.txt
"""
_BUILD_WHEEL = f"""
set -e
"$1" -m venv /tmp/builder
/tmp/builder/bin/python -m pip --disable-pip-version-check --no-input wheel {_FROM_WHEELHOUSE} \
  --use-pep517 --no-deps --wheel-dir {_BUILT} "$2"
"""
# Builds leave files in the tree that later runs need: a generated version module, compiled modules, metadata.
# Unpacked files are old, so what is newer than the stamp was made by the build.
_INSTALL_PROJECT = f"""
set -e
touch /tmp/stamp
{_PIP} install {_FROM_WHEELHOUSE} --no-deps --ignore-requires-python -e .
find . -newer /tmp/stamp \\( -type f -o -type l \\) \
  ! -path './build/*' ! -path '*/__pycache__/*' -print0 |
  tar --create --null --files-from=- --owner=0 --group=0 --mtime=@0 --file=/results/{_GENERATED}
"""
# A version from the history cannot be known without it. High, because checks ask for a least version.
_PRETENDED_VERSION = "999.0.0"
_BUILD_ENV = {
    "PIP_NO_WARN_SCRIPT_LOCATION": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "SETUPTOOLS_SCM_PRETEND_VERSION": _PRETENDED_VERSION,
    "PDM_BUILD_SCM_VERSION": _PRETENDED_VERSION,
    "PBR_VERSION": _PRETENDED_VERSION,
    "POETRY_DYNAMIC_VERSIONING_BYPASS": _PRETENDED_VERSION,
}


@dataclass(frozen=True)
class Installer:
    """Runs the steps for one environment that is being built. All folders are on the host."""

    sandbox: Sandbox
    python: str  # the sandbox's interpreter
    environment: Path
    wheelhouse: Path
    sources: Path
    built: Path  # the one folder that foreign code writes and this machine reads
    timeout_seconds: float
    image: str = ""  # "": the sandbox's own

    async def install(self, requirements: Sequence[str], constraints: Sequence[str] = ()) -> None:
        """Make the virtual environment with these requirements, from the wheelhouse.

        That may hold other versions as well: what builds a project is not bound by the constraints.

        Raises:
            PrepareError: it failed; the message ends with pip's last lines.
        """
        files = {"requirements.txt": requirements, "constraints.txt": constraints}
        layer = tar_of({name: "\n".join(lines).encode() for name, lines in files.items()})
        result = await self._run(_INSTALL, (self.python,), (layer,), writable=ENVIRONMENT)
        _check(result, "the environment cannot be installed")

    async def build_wheel(self, archive: Path) -> None:
        """Build a source archive from `sources` into the wheelhouse.

        Raises:
            PrepareError: it failed; the message names the archive and ends with the build's last lines.
        """
        args = (self.python, f"{_SOURCES}/{archive.name}")
        result = await self._run(_BUILD_WHEEL, args, (), writable=_BUILT)
        _check(result, f"{archive.name} has no wheel and cannot be built without network")
        for path in self.built.glob("*.whl"):
            if path.is_file() and not path.is_symlink():
                shutil.move(path, self.wheelhouse / path.name)

    async def install_project(self, tree: bytes) -> bytes:
        """Install the project to run from its own sources; return the files that its build made, as a tar.

        Raises:
            PrepareError: its build failed.
        """
        result = await self._run(_INSTALL_PROJECT, (), (tree,), writable=ENVIRONMENT, collect=(_GENERATED,))
        _check(result, "the project cannot be installed")
        return result.collected.get(_GENERATED, b"")

    async def _run(
        self,
        script: str,
        args: Sequence[str],
        layers: tuple[bytes, ...],
        *,
        writable: str,
        collect: tuple[str, ...] = (),
    ) -> SandboxResult:
        folders = {
            ENVIRONMENT: self.environment,
            _WHEELHOUSE: self.wheelhouse,
            _SOURCES: self.sources,
            _BUILT: self.built,
        }
        mounts = tuple(
            Mount(source=str(source), target=target, read_only=target != writable)
            for target, source in folders.items()
        )
        limits = SandboxLimits(
            wall_seconds=self.timeout_seconds,
            cpu_seconds=2 * self.timeout_seconds,
            memory_bytes=_MEMORY_BYTES,
            num_cpus=2,
            num_pids=512,
            output_bytes=_OUTPUT_BYTES,
            disk_bytes=_DISK_BYTES,
        )
        request = SandboxRequest(
            argv=("sh", "-c", script, "sh", *args),
            layers=layers,
            mounts=mounts,
            env=_BUILD_ENV,
            limits=limits,
            collect=collect,
            image=self.image,
        )
        return await self.sandbox.run(request)


def _check(result: SandboxResult, problem: str) -> None:
    if result.outcome is Outcome.EXITED and result.exit_code == 0:
        return
    output = tail(result.stdout.text() + result.stderr.text())
    if result.outcome is Outcome.INFRA_ERROR:
        raise PrepareError(f"{problem}: the sandbox failed: {result.error}", hint="run `loopwright doctor`")
    if result.outcome is not Outcome.EXITED:
        raise PrepareError(
            f"{problem}: {result.outcome.replace('_', ' ')} after {result.wall_seconds:.0f} s\n{output}",
            hint="give more time with sandbox.prepare_timeout_seconds",
        )
    raise PrepareError(f"{problem}:\n{output}")
