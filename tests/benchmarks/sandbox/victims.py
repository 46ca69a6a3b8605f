"""The processes that get killed: one that runs sandboxes, and one that plans. Each goes on where it was.

python -m tests.benchmarks.sandbox.victims bubblewrap|docker|planner FOLDER
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

from pipeline.config import Settings
from pipeline.core import Limits, SandboxLimits, SandboxRequest
from pipeline.exceptions import EnvironmentBrokenError
from pipeline.graph.run import run_task
from pipeline.ledger import LedgerSandbox
from pipeline.runs import RunFolder
from pipeline.telemetry import discard
from tests.integration.planner_tools import PytestEnvironment, dependencies
from tests.unit.planner import RIGHT, WRONG, make_repository, make_task
from workers.edges import Roots, sandbox_edges
from workers.sandbox.reaper import reap_orphans

RESULTS = "results.json"
NO_ENGINE = 4  # the exit code of a victim that did not begin
_NUM_RUNS, _NUM_AT_ONCE = 16, 4
_ANSWERS = [WRONG, "\n    return a.undefined\n", "\n    return a * b\n", RIGHT]
_CODE = """
import hashlib, sys, time
time.sleep(0.3)
open("/results/digest", "w").write(hashlib.sha256(sys.argv[1].encode()).hexdigest())
print("run", sys.argv[1])
"""


def main(kind: str, folder: Path) -> None:
    """Do the work that is left in the folder, and write down what all of it came to."""
    found = asyncio.run(_plan(folder) if kind == "planner" else _run_all(kind, folder))
    (folder / RESULTS).write_text(json.dumps(found, indent=1))


async def _run_all(kind: str, folder: Path) -> dict[str, object]:
    settings = Settings(sandbox={"kind": kind, "num_warm": 2, "num_parallel": _NUM_AT_ONCE})
    home = folder.parent / "home"
    roots = Roots(home=home, environments=home, clones=home, outcomes=home / "outcomes")
    try:
        sandbox, _ = await sandbox_edges(settings, roots, discard, num_sharing=2)
    except EnvironmentBrokenError as error:  # a command that is given while the engine is down
        print(error, file=sys.stderr)
        sys.exit(NO_ENGINE)
    ledger = LedgerSandbox(sandbox, folder / "ledger")

    async def run(number: int) -> tuple[str, object]:
        argv = ("python3", "-c", _CODE, str(number))
        result = await ledger.run(SandboxRequest(argv=argv, collect=("digest",)))
        digest = result.collected.get("digest", b"").decode()
        return str(number), [result.outcome, result.exit_code, result.stdout.text(), digest]

    try:
        return dict(await asyncio.gather(*(run(number) for number in range(_NUM_RUNS))))
    finally:
        await sandbox.close()


async def _plan(folder: Path) -> dict[str, object]:
    await reap_orphans()  # as each command does when it starts
    repository = folder / "repository"
    if not repository.exists():
        make_repository(folder / "partial").rename(repository)
    edges = dependencies(folder, _ANSWERS)
    edges = replace(edges, environments=PytestEnvironment(folder.parent / "home" / "pytest"))
    task = make_task(repository, limits=Limits(sandbox=SandboxLimits(wall_seconds=20)))
    record = await run_task(task, RunFolder(folder / "run"), edges)
    assert record.patch is not None
    verdicts = [entry.verdict and entry.verdict.kind for entry in record.rounds[0].candidates]
    return {"status": record.status, "diff": record.patch.diff, "verdicts": verdicts}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
