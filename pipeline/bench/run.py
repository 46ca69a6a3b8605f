"""Runs the variants of an ablation, each as a batch of its own folder, and reports on them.

tasks/                built repositories
variants/<name>/      a batch's folder
variants/<name>.yaml  its settings;  variants/<name>.jsonl its tasks, without what they know of the bug
report.md, report.json, plots
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.bench.build import build_tasks, write_tasks
from pipeline.bench.measure import against, figures
from pipeline.bench.recipe import injected
from pipeline.bench.report import Measured, report_json, report_markdown
from pipeline.bench.sources import Library
from pipeline.bench.variants import Plan, Variant
from pipeline.compare import Batch, read_batch
from pipeline.core import Limits, Task
from pipeline.exceptions import InputError
from pipeline.runs import write_atomically

RunBatch = Callable[[Path, Path, Path], None]  # tasks, folder, settings; comes back when all are judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A benchmark to be run."""

    tasks: Sequence[Task]  # as `bench make` wrote them
    plan: Plan
    out: Path
    library: Library
    run_batch: RunBatch
    conditions: Mapping[str, Any]
    say: Callable[[str], None]
    seed: int = 0  # of the bootstrap

    def run(self) -> dict[str, Measured]:
        """Run what is not finished and write the report, anew after every variant.

        Raises:
            InputError: a task, plan or settings that cannot be, or not those that a variant was begun with.
            EnvironmentBrokenError: a source cannot be fetched, or a batch could not be run.
        """
        variants = self.plan.variants()
        built = build_tasks(self.tasks, self.out / "tasks", self.library, self.say)
        max_depth = max(Limits().max_recurrence_depth, *(v.depth for v in variants.values()))
        batches: dict[str, Batch] = {}
        measured: dict[str, Measured] = {}
        for number, (name, variant) in enumerate(variants.items(), 1):
            self.say(f"variant {number} of {len(variants)}: {name}")
            batches[name] = self._batch(name, variant, built, max_depth)
            measured[name] = self._measured(variant, batches[name], next(iter(batches.values())))
            self._write(measured, {"variants run": f"{number} of {len(variants)}"})
        return measured

    def _batch(self, name: str, variant: Variant, built: Sequence[Task], max_depth: int) -> Batch:
        folder = self.out / "variants"
        tasks, settings = folder / f"{name}.jsonl", folder / f"{name}.yaml"
        write_tasks([_for_run(task, variant) for task in built], tasks)
        values = variant.settings(self.plan.settings, max_depth)
        write_atomically(settings, yaml.safe_dump(values, sort_keys=True).encode())
        self.run_batch(tasks, folder / name, settings)
        batch = read_batch(folder / name)
        if missing := [task.task_id for task in built if task.task_id not in batch.results]:
            raise InputError(
                f"{len(missing)} tasks of {name} have no outcome, such as {missing[0]}",
                hint="give the same command again: it goes on where it was",
            )
        return batch

    def _measured(self, variant: Variant, batch: Batch, baseline: Batch) -> Measured:
        found = figures(batch, self.tasks, has_own_search=variant.localisation == "own", seed=self.seed)
        other = None if batch is baseline else against(batch, baseline, seed=self.seed)
        return Measured(variant=variant, figures=found, against=other)

    def _write(self, measured: Mapping[str, Measured], more: Mapping[str, Any]) -> None:
        conditions = {**self.conditions, **more}
        write_atomically(self.out / "report.json", report_json(measured, conditions).encode())
        write_atomically(self.out / "report.md", report_markdown(measured, conditions).encode())


def _for_run(task: Task, variant: Variant) -> Task:
    """Return the task without recipe and gold, which no search may see; an oracle names the functions."""
    places = tuple(dict.fromkeys(place.function for place in injected(task).gold))
    functions = places if variant.localisation == "oracle" else ()
    return task.model_copy(update={"metadata": {}, "functions": functions})
