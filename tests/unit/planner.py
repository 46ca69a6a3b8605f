"""A small repository, a pytest that is played from its files, and the edges of a run over both."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import Rung, Settings
from pipeline.core import PreparedEnvironment, SandboxRequest, SandboxResult, Task
from pipeline.graph.run import Dependencies
from pipeline.telemetry import Event
from pipeline.testing import RecordingSandbox, ScriptedGenerator
from tests.unit.junit import pytest_result

MODULE = "calc/core.py"
TEST = "tests/test_core.py"
SOURCE = '''\
"""Arithmetic."""


def add(a, b):
    """Add."""
    return a - b


def double(x):
    return x * 2
'''
TEST_SOURCE = """\
from calc.core import add, double


def test_add():
    assert add(1, 2) == 3


def test_add_zero():
    assert add(5, 0) == 5


def test_double():
    assert double(4) == 8
"""
FILES = {MODULE: SOURCE, "calc/__init__.py": "", TEST: TEST_SOURCE}
RIGHT = "\n    return a + b\n"
WRONG = "\n    return a * b\n"
PROSE = "I am sorry, I cannot do that."

Reporter = Callable[[Mapping[str, bytes], SandboxRequest], Mapping[str, str]]


def make_repository(path: Path, files: Mapping[str, str | bytes] = FILES) -> Path:
    """Write the files and commit them."""
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    git = ["git", "-C", str(path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "base"], check=True)
    return path


def git_apply(repo: Path, diff: str) -> None:
    """Apply a diff to the repository's working tree, as its user would."""
    subprocess.run(["git", "-C", str(repo), "apply", "-"], input=diff.encode(), check=True)


def files_of(request: SandboxRequest) -> dict[str, bytes]:
    """Return the workspace as the layers leave it."""
    files: dict[str, bytes] = {}
    for layer in request.layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
            for member in archive.getmembers():
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    files[member.name] = stream.read()
    return files


def calculated(files: Mapping[str, bytes], _request: SandboxRequest) -> Mapping[str, str]:
    """Play the tests of the repository: run `calc.core` here, since every draft of it is one of ours."""
    module: dict[str, object] = {}
    try:
        exec(files[MODULE], module)
    except SyntaxError as exc:
        return {TEST: f"SyntaxError: {exc.msg}"}
    cases = {"add": (("add", (1, 2), 3)), "add_zero": ("add", (5, 0), 5), "double": ("double", (4,), 8)}
    return {f"{TEST}::test_{name}": _outcome(module, *case) for name, case in cases.items()}


def _outcome(module: Mapping[str, object], function: str, arguments: tuple, expected: int) -> str:
    try:
        value = module[function](*arguments)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    return "passed" if value == expected else f"AssertionError: assert {value} == {expected}"


def selected(request: SandboxRequest, outcomes: Mapping[str, str]) -> dict[str, str]:
    """Return the outcomes of the tests that the command line selects."""
    wanted = [word for word in request.argv if word.startswith("tests/")]
    return {
        test_id: text
        for test_id, text in outcomes.items()
        if not wanted or any(test_id.startswith(word) or word.startswith(test_id) for word in wanted)
    }


def played(reporter: Reporter = calculated) -> RecordingSandbox:
    """Return a sandbox that plays pytest on the workspace's files."""

    def respond(request: SandboxRequest) -> SandboxResult:
        return pytest_result(selected(request, reporter(files_of(request), request)))

    return RecordingSandbox(respond=respond)


class NoEnvironment:
    """An environment builder with nothing to install."""

    async def prepare(self, tree: Path) -> PreparedEnvironment:
        """Return an empty environment."""
        return PreparedEnvironment(environment_id="none", python="/env/bin/python", mounts=())


def one_rung(**options) -> tuple[Rung, ...]:
    return (Rung(**{"num_candidates": 4, "num_suspects": 1, **options}),)


def settings_with(ladder: tuple[Rung, ...], *, num_parallel: int = 1) -> Settings:
    return Settings(planner={"ladder": ladder}, sandbox={"num_parallel": num_parallel})


@dataclass
class Edges:
    """The scripted outside of one run, kept so that a test can ask what it saw."""

    generator: ScriptedGenerator
    sandbox: RecordingSandbox = field(default_factory=played)
    settings: Settings = field(default_factory=lambda: settings_with(one_rung()))
    events: list[Event] = field(default_factory=list)

    def dependencies(self, cache: Path) -> Dependencies:
        return Dependencies(
            generator=self.generator,
            sandbox=self.sandbox,
            environments=NoEnvironment(),
            settings=self.settings,
            emit=self.events.append,
            clone_cache=cache,
        )


def make_task(repo: Path, **options) -> Task:
    return Task(**{"task_id": "t1", "repo": str(repo), "test_command": "python -m pytest", **options})
