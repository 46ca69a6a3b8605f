"""What became of the tasks: `python -m tests.benchmarks.new_code.score --out DIR --batch DIR/batch`.

A drafted test is right if it fails on the older release and passes on the maintainers' next one; an advisory
patch is right if the tests that the maintainers added pass with it. Neither was shown to the model.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from pipeline.core import Task
from pipeline.runs import RunFolder, RunRecord
from pipeline.snapshot import Snapshot
from pipeline.testrun import build_request, parse_test_command, read_report
from pipeline.verdict import judge
from tests.benchmarks.real_cases.case import load_cases
from workers.environment import PythonEnvironmentBuilder
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox


class Judge:
    """Runs named tests on a tree."""

    def __init__(self, cache: Path) -> None:
        self._sandbox = BubblewrapSandbox()
        self._environments = PythonEnvironmentBuilder(self._sandbox, cache)

    async def passes(self, tree: Snapshot, test_ids: list[str]) -> bool:
        """Say whether all these tests pass on the tree."""
        command = parse_test_command("python -m pytest")
        request = build_request(
            command,
            environment=await self._environments.prepare(tree.root),
            layers=(tree.tar,),
            limits=Task(task_id="x", repo=".").limits.sandbox,
            run_id="score",
            test_ids=test_ids,
            paths=tree.paths,
        )
        report = read_report(await self._sandbox.run(request), command, tree.paths)
        return judge(report, fail_to_pass=test_ids).num_fixed == len(test_ids)


async def line_of(record: RunRecord, cases: Path, verdict: Judge) -> tuple[str, str]:
    """Return a table's line for a run, and the words that sum it up."""
    name = record.task.task_id
    cells = [
        name,
        record.status,
        str(len(record.completions)),
        f"{sum(record.seconds_by_stage.values()):.0f} s",
    ]
    if not name.startswith("issue-"):
        return " | ".join([*cells, "", ""]), f"{name.partition('-')[0]}: {record.status}"
    case = next(task for task in load_cases() if task.task_id == name.removeprefix("issue-"))
    test, patch = "none kept", ""
    found = record.reproduction
    if found and found.path:
        tree = Snapshot(cases / case.task_id / "next", commit="").with_files(
            {found.path: found.source.encode()}
        )
        test = "right" if await verdict.passes(tree, [found.test_id]) else "wrong"
    if record.patch:
        with tempfile.TemporaryDirectory() as folder:
            tree = await asyncio.to_thread(patched, cases / case.task_id / "repo", record.patch.diff, folder)
            right = await verdict.passes(tree, list(case.fail_to_pass))
        patch = "right" if right else "wrong"
    return " | ".join([*cells, test, patch]), f"issue: test {test}, patch {patch or 'none'}"


def patched(repo: Path, diff: str, folder: str) -> Snapshot:
    """Return the tree of a repository with the diff, copied into the folder."""
    tree = Path(shutil.copytree(repo, Path(folder) / "repo"))
    subprocess.run(["git", "-C", str(tree), "apply", "-"], input=diff.encode(), check=True)
    return Snapshot(tree, commit="")


async def main() -> int:
    """Print a Markdown table and the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where `build` put the tasks")
    parser.add_argument("--batch", type=Path, required=True, help="the folder of `loopwright batch`")
    options = parser.parse_args()
    verdict, counts = Judge(options.out / "environments"), Counter[str]()
    print("| task | status | drafts | time | drafted test | patch |\n|---|---|---|---|---|---|")
    for folder in sorted((options.batch / "instances").iterdir()):
        if (folder / "trajectory.json").exists():
            line, summary = await line_of(RunFolder(folder).load(), options.out / "cases", verdict)
            counts[summary] += 1
            print(f"| {line} |", flush=True)
    for summary, number in sorted(counts.items()):
        print(f"- {summary}: {number}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
