"""A run of the planner with real bubblewrap and real pytest, and scripted drafts; also as its own process."""

from __future__ import annotations

import asyncio
import shutil
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

from pipeline.config import Rung, Settings
from pipeline.core import Mount, PreparedEnvironment, SandboxRequest, SandboxResult, Task
from pipeline.graph.run import Dependencies, run_task
from pipeline.ledger import request_digest
from pipeline.runs import RunFolder
from pipeline.testing import ScriptedGenerator
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox

_PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments", "pytest-cov", "coverage")
_PACKAGES = Path(f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages")


class PytestEnvironment:
    """An environment builder whose environment is our own pytest, copied: no network, nothing built."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def prepare(self, tree: Path) -> PreparedEnvironment:
        """Return the environment, copied on first use."""
        if not self._folder.exists():
            partial = self._folder.with_name("partial")
            # A virtual one: pytest would load and rewrite, in every run, what the base interpreter has.
            venv.create(partial, clear=True, symlinks=True)
            for name in _PYTEST:
                _copy_distribution(name, partial / _PACKAGES)
            partial.rename(self._folder)
        return PreparedEnvironment(
            environment_id="pytest",
            python="/deps/bin/python",
            mounts=(Mount(source=str(self._folder), target="/deps"),),
            env={"PYTHONPATH": "/workspace"},
        )


class LoggingSandbox:
    """Bubblewrap, which notes each request that really begins."""

    name = "bubblewrap"

    def __init__(self, log: Path) -> None:
        self._inner = BubblewrapSandbox()
        self._log = log

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Note the request and run it."""
        with self._log.open("a") as stream:
            stream.write(f"{request_digest(request)}\n")
        return await self._inner.run(request)

    async def close(self) -> None:
        """Close the inner sandbox."""
        await self._inner.close()


def dependencies(work: Path, answers: list[str], **settings: object) -> Dependencies:
    """Return edges with real sandboxes; the n-th candidate of a round gets the n-th answer."""
    ladder = (Rung(num_candidates=len(answers)), Rung(num_candidates=len(answers), feedback=True))

    def reply(_prompt: object, sampling: object, number: int) -> str:
        greedy = sampling.temperature == 0  # type: ignore[attr-defined]
        return answers[0 if greedy else number + 1]

    return Dependencies(
        generator=ScriptedGenerator(reply=reply),
        sandbox=LoggingSandbox(work / "requests.log"),
        environments=PytestEnvironment(work / "deps"),
        settings=Settings(**{"planner": {"ladder": ladder}, **settings}),
        clone_cache=work / "clones",
    )


def main(work: Path, answers: list[str]) -> None:
    """Run the task in `work`, or resume it."""
    task = Task.model_validate_json((work / "task.json").read_text())
    asyncio.run(run_task(task, RunFolder(work / "run"), dependencies(work, answers)))


def _copy_distribution(name: str, target: Path) -> None:
    found = distribution(name)
    for file in found.files or ():
        source = Path(str(file.locate()))
        if ".." not in file.parts and source.is_file():
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)  # with its time, by which the bytecode beside it is valid


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
