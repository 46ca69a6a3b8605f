"""A small library is prepared for real: the user's own pip and index, then each sandbox without network."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import Outcome, PreparedEnvironment, SandboxLimits, SandboxRequest, SandboxResult
from pipeline.protocols import Sandbox
from pipeline.snapshot import Snapshot
from tests.unit.wheels import make_sdist
from workers.environment import PythonEnvironmentBuilder
from workers.sandbox.reaper import reap_orphans

pytestmark = pytest.mark.integration

# The build of this library tells by its version module what it could reach.
SETUP = """
import os, pathlib, socket
from setuptools import setup

def attempt(action):
    try:
        action()
    except OSError:
        return False
    return True

reached = attempt(lambda: socket.create_connection(("1.1.1.1", 53), 2))
changed = attempt(lambda: pathlib.Path("/wheelhouse/evil.whl").write_text(""))
told = "of the host" in " ".join(os.environ.values())
pathlib.Path("src/tiny/_version.py").write_text(f"reached, changed, told = {reached}, {changed}, {told}")
setup(
    name="tiny", version="1.5", package_dir={"": "src"}, packages=["tiny"],
    install_requires=["six", "onlysource"], entry_points={"console_scripts": ["tiny = tiny:main"]},
)
"""
TESTS = """
import importlib.metadata, os, pathlib, socket, subprocess, sys
import pytest, six, onlysource, tiny
from tiny import _version

def test_code_under_test_is_the_workspace():
    assert tiny.__file__ == "/workspace/src/tiny/__init__.py"

def test_metadata_and_entry_points():
    assert importlib.metadata.version("tiny") == "1.5"
    assert subprocess.run(["tiny"], capture_output=True, text=True).stdout == "hello\\n"

def test_build_had_no_network_no_other_folder_and_no_secret():
    assert (_version.reached, _version.changed, _version.told) == (False, False, False)

def test_run_has_no_secret():
    assert "of the host" not in " ".join(os.environ.values())

def test_run_has_no_network():
    with pytest.raises(OSError):
        socket.create_connection(("1.1.1.1", 53), 2)

def test_environment_is_read_only():
    with pytest.raises(OSError):
        pathlib.Path(six.__file__).write_text("")

def test_nothing_of_loopwright_is_there():
    names = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    assert "loopwright" not in names
"""


class Recorded:
    """A sandbox that notes what it is asked."""

    def __init__(self, inner: Sandbox) -> None:
        self._inner = inner
        self.name = inner.name
        self.requests: list[SandboxRequest] = []

    async def run(self, request: SandboxRequest) -> SandboxResult:
        self.requests.append(request)
        return await self._inner.run(request)

    async def close(self) -> None:
        await self._inner.close()


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    # Not under pytest's own folder: what a sandbox wrote may belong to another user.
    folder = Path(f"/var/tmp/loopwright-test-{os.getpid()}")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library that needs a wheel of the index, and a package of which there is only a source archive."""
    setup = "from setuptools import setup\nsetup(name='onlysource', version='1.0', py_modules=['onlysource'])"
    make_sdist(tmp_path / "archives", "onlysource", setup)
    monkeypatch.setenv("API_TOKEN", "a secret of the host")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{os.environ.get('PIP_FIND_LINKS', '')} {tmp_path / 'archives'}")
    tree = tmp_path / "library"
    (tree / "src" / "tiny").mkdir(parents=True)
    (tree / "tests").mkdir()
    (tree / "setup.py").write_text(SETUP)
    (tree / "src" / "tiny" / "__init__.py").write_text("def main():\n    print('hello')\n")
    (tree / "tests" / "test_tiny.py").write_text(TESTS)
    return tree


async def run_tests(sandbox: Sandbox, environment: PreparedEnvironment, tree: Path) -> SandboxResult:
    return await sandbox.run(
        SandboxRequest(
            argv=(environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            layers=(Snapshot(tree, "").tar,),
            environment=environment,
            limits=SandboxLimits(wall_seconds=120),
        )
    )


async def test_library_is_prepared_once_and_its_tests_pass_without_network(
    sandbox: Sandbox, cache: Path, library: Path
) -> None:
    lines: list[str] = []
    environment = await PythonEnvironmentBuilder(sandbox, cache, on_progress=lines.append).prepare(library)
    result = await run_tests(sandbox, environment, library)
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0), result.stdout.text() + "\n".join(lines)
    assert "7 passed" in result.stdout.text()

    recorded = Recorded(sandbox)
    again = await PythonEnvironmentBuilder(recorded, cache).prepare(library)
    assert again == environment
    assert [request.argv[0] for request in recorded.requests] == ["python3"]  # the probe alone


PREPARE = """
import asyncio, sys
from pathlib import Path
from workers.environment import PythonEnvironmentBuilder
from workers.sandbox.selection import select_sandbox

async def main(kind, home, cache, tree):
    sandbox = await select_sandbox(kind, home=Path(home))
    await PythonEnvironmentBuilder(sandbox, Path(cache)).prepare(Path(tree))

asyncio.run(main(*sys.argv[1:]))
"""


def start(program: str, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, *args])


async def test_preparation_killed_half_way_is_done_again(
    sandbox: Sandbox, cache: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "plain"
    tree.mkdir()
    (tree / "test_plain.py").write_text("def test_plain():\n    assert True\n")
    folder = cache / f"killed-{sandbox.name}"
    folder.parent.mkdir(exist_ok=True)
    args = (sandbox.name, str(tmp_path / "home"), str(folder), str(tree))
    process = start(PREPARE, *args)
    try:
        while not any(folder.glob(".*.partial-*/environment/pyvenv.cfg")):
            assert process.poll() is None, "it ended before it could be killed"
            await asyncio.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not any(folder.glob("*/prepared.json"))
    await reap_orphans()  # as each command does when it starts

    recorded = Recorded(sandbox)
    environment = await PythonEnvironmentBuilder(recorded, folder).prepare(tree)
    assert len(recorded.requests) == 2  # the probe, and the whole installation
    result = await run_tests(sandbox, environment, tree)
    assert result.exit_code == 0, result.stdout.text()
