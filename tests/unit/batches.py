"""A batch over small repositories, with scripted edges: what the tests of `pipeline.batch` share."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.batch.folder import BatchFolder
from pipeline.batch.outcome import InstanceOutcome, Row
from pipeline.batch.planner import LocalFleet, LocalPlanner
from pipeline.batch.runner import BatchStatus, Fleet, Runner
from pipeline.batch.task_file import TaskFile
from pipeline.config import Settings
from pipeline.core import Prompt, Sampling
from pipeline.graph.run import Dependencies
from pipeline.testing import RecordingSandbox, ScriptedGenerator
from tests.unit.planner import RIGHT, WRONG, Edges, make_repository, one_rung, settings_with


def write_tasks(path: Path, lines: Collection[object]) -> Path:
    """Write a line for each value: text as it is, anything else as JSON."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", "utf-8", "surrogatepass")
    return path


def instance(name: str, **fields: object) -> dict[str, object]:
    """Return a SWE-bench line on the repository of that name, beside the task file."""
    return {"instance_id": name, "repo": f"./{name}", "problem_statement": f"fix {name}", **fields}


def answer_by_statement(right: Collection[str]) -> Callable[[Prompt, Sampling, int], str]:
    """Return a reply that is right for these instances, and wrong in ever new ways for the others."""

    def reply(prompt: Prompt, sampling: Sampling, number: int) -> str:
        text = "".join(message.content for message in prompt.messages)
        if any(f"fix {name}\n" in text + "\n" for name in right) and sampling.temperature > 0 and number == 1:
            return RIGHT
        return WRONG if sampling.temperature == 0 else f"\n    return a * b + {sampling.seed + number + 7}\n"

    return reply


@dataclass
class Batch:
    """A batch in a folder of its own, run in this process."""

    root: Path
    right: tuple[str, ...] = ()  # names of the instances that the script solves
    num_tasks: int = 2
    settings: Settings = field(default_factory=lambda: settings_with(one_rung(num_candidates=4)))
    statuses: list[BatchStatus] = field(default_factory=list)
    sandbox: RecordingSandbox = field(default_factory=lambda: Edges(ScriptedGenerator(())).sandbox)
    rows: dict[str, Row] = field(default_factory=dict)  # of the last command

    def __post_init__(self) -> None:
        self.generator = ScriptedGenerator(answer_by_statement(self.right))
        self.folder = BatchFolder(self.root / "out")

    def repositories(self, *names: str) -> list[dict[str, object]]:
        """Make a repository for each name and return its line."""
        for name in names:
            make_repository(self.root / name)
        return [instance(name) for name in names]

    def dependencies(self) -> Dependencies:
        edges = Edges(self.generator, sandbox=self.sandbox, settings=self.settings)
        return edges.dependencies(self.root / "clones")

    def local_fleet(self) -> Fleet:
        return LocalFleet(LocalPlanner(self.dependencies(), self.folder.instances), self.num_tasks)

    async def run(
        self, tasks: Path, *, redo: Collection[InstanceOutcome] = (), fleet: Fleet | None = None
    ) -> dict[str, Row]:
        """Do what one command does, and return the rows of all instances by id."""
        file = TaskFile(tasks, self.settings.limits)
        entries = file.scan()
        with self.folder.opened(self.settings):
            plan = self.folder.plan(entries, redo)
            self.rows = dict(plan.rows)

            def keep(row: Row) -> None:
                self.folder.append(row)
                self.rows[row.instance_id] = row

            runner = Runner(
                fleet=fleet or self.local_fleet(),
                load=file.instance,
                keep=keep,
                watch=self.statuses.append,
                num_total=len(entries),
            )
            await runner.run(plan.todo)
            self.folder.write_predictions(self.rows.values())
        return self.rows

    def outcomes(self) -> dict[str, str]:
        """Return each instance's outcome."""
        return {name: row.outcome.value for name, row in self.rows.items()}
