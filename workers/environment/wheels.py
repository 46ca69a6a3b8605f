"""Downloads wheels with the user's own pip and pip configuration, and never runs what it downloads.

The pip process carries an audit hook that ends it where it would start a build. What it was about to build is
then in its temporary folder, as downloaded: the caller builds it in a sandbox without network.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.exceptions import PrepareError

_STOPPED_AT_BUILD = 75
# pip chooses files by --python-version, but asks its own interpreter whether a marker holds
# (pypa/pip#10050). It is made to ask for the version that it was given.
_LAUNCHER = f"""
import os, runpy, sys
import pip._vendor.packaging.markers as markers
own_environment = markers.default_environment
def environment_of_target():
    version = sys.argv[sys.argv.index("--python-version") + 1]
    named = {{"python_version": ".".join(version.split(".")[:2]), "python_full_version": version}}
    return {{**own_environment(), **named, "implementation_version": version}}
if "--python-version" in sys.argv:
    markers.default_environment = environment_of_target
def hook(event, args):
    if event == "subprocess.Popen":
        program = os.path.basename(os.fsdecode(args[0]))
        if os.fsdecode(args[0]) == sys.executable or program.startswith("python"):
            os._exit({_STOPPED_AT_BUILD})  # a build begins here
        if program != "keyring":
            raise PermissionError(f"pip may not run {{program}}")
    elif event in ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"):
        raise PermissionError(f"pip may not start programs ({{event}})")
sys.addaudithook(hook)
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
_SOURCE_SUFFIXES = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz")
_USED_IN_PLACE = re.compile(r"^Processing (/.+?)\s*$", re.MULTILINE)
_TAIL_LINES = 12
_NO_NETWORK = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution|Name or service not known"
    r"|Network is unreachable|Max retries exceeded|ConnectTimeoutError|ReadTimeoutError|Connection refused"
    r"|ProxyError|SSLError|NewConnectionError"
)
_NO_MATCH = re.compile(r"No matching distribution found for (.+?)(?: \(from .*)?\s*$", re.MULTILINE)
_CONFLICT = re.compile(
    r"Cannot install (.+?) because these package versions have conflicting|ResolutionImpossible"
)


class NoWheelError(PrepareError):
    """The index has no wheel of this requirement that fits the interpreter; it may have a source archive."""

    def __init__(self, requirement: str) -> None:
        super().__init__(
            f"no distribution on the package index matches {requirement!r} for the sandbox's interpreter",
            hint="check the name and version, and the index that pip is configured to use",
        )
        self.requirement = requirement


class ConflictError(PrepareError):
    """The requirements exclude one another."""


class PipIndex:
    """The package index as the user's pip is configured to see it."""

    async def download_wheels(
        self,
        requirements: Sequence[str],
        constraints: Sequence[str],
        wheelhouse: Path,
        *,
        options: Sequence[str],
        on_progress: Callable[[str], None],
    ) -> None:
        """Fill the wheelhouse with wheels for all requirements and what these require.

        Raises:
            NoWheelError, ConflictError: so that the caller can build the one, or give up the other.
            PrepareError: no network, full disk, or a requirement that can only be built.
        """
        with _scratch(wheelhouse.parent) as name:
            scratch = Path(name)
            (scratch / "requirements.txt").write_text("\n".join(requirements) + "\n")
            (scratch / "constraints.txt").write_text("\n".join(constraints) + "\n")
            files = ("-r", str(scratch / "requirements.txt"), "-c", str(scratch / "constraints.txt"))
            wheels_only = ("--only-binary=:all:", "--find-links", str(wheelhouse), "--dest", str(wheelhouse))
            code, output = await _run_pip((*wheels_only, *files, *options), scratch, on_progress)
            if code == _STOPPED_AT_BUILD:
                archive = _archive_in(scratch, output).name
                raise PrepareError(
                    f"a requirement points to {archive} by its URL, which would have to be built"
                )
            if code != 0:
                raise _failure(output)

    async def download_source(
        self,
        requirement: str,
        folder: Path,
        *,
        options: Sequence[str],
        on_progress: Callable[[str], None],
    ) -> Path:
        """Download the source archive that best matches the requirement into `folder`, unopened; return it.

        Raises:
            NoWheelError, PrepareError: there is none either.
        """
        with _scratch(folder.parent) as name:
            scratch = Path(name)
            source_only = ("--no-deps", "--no-binary=:all:", "--dest", str(scratch))
            code, output = await _run_pip((*source_only, *options, requirement), scratch, on_progress)
            if code not in (0, _STOPPED_AT_BUILD):
                raise _failure(output)
            archive = _archive_in(scratch, output)
            return Path(shutil.copyfile(archive, folder / archive.name))


def _scratch(parent: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=".pip-", dir=parent)


def _archive_in(scratch: Path, output: str) -> Path:
    """Return the archive that pip was about to build: downloaded, or used in place from a local folder."""
    found = [path for suffix in _SOURCE_SUFFIXES for path in scratch.rglob(f"*{suffix}")]
    found += [Path(path) for path in _USED_IN_PLACE.findall(output) if path.endswith(_SOURCE_SUFFIXES)]
    if not found:
        raise PrepareError(f"pip wanted to build something that is no archive:\n{tail(output)}")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


async def _run_pip(args: Sequence[str], scratch: Path, on_progress: Callable[[str], None]) -> tuple[int, str]:
    common = ("download", "--no-input", "--disable-pip-version-check", "--progress-bar=off")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _LAUNCHER, *common, *args),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=scratch,  # no pip or setuptools configuration file of the project lies here
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1", "PIP_NO_COLOR": "1"},
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async for raw in process.stdout:
            line = raw.decode("utf-8", "replace").rstrip()
            lines.append(line)
            if line.startswith(("Collecting ", "Downloading ")):
                on_progress(line.partition(" (from ")[0].lower())
        return await process.wait(), "\n".join(lines)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _failure(output: str) -> PrepareError:
    if "No space left on device" in output:
        return PrepareError("the disk is full: the requirements cannot be downloaded", hint="free some space")
    if _NO_NETWORK.search(output):
        return PrepareError(
            "the package index cannot be reached", hint="check the network, the proxy and pip's configuration"
        )
    unmatched = _NO_MATCH.search(output)
    if unmatched:
        return NoWheelError(unmatched[1])
    if _CONFLICT.search(output):
        return ConflictError(f"the requirements exclude one another:\n{tail(output)}")
    return PrepareError(f"pip failed:\n{tail(output)}")


def tail(output: str) -> str:
    """Return the last lines of a program's output."""
    return "\n".join(output.strip().splitlines()[-_TAIL_LINES:])
