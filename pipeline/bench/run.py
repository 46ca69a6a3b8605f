"""Runs the variants of an ablation, each as a batch of its own folder, and reports on them.

tasks/                built repositories
variants/<name>/      a batch's folder
variants/<name>.yaml  its settings;  variants/<name>.jsonl its tasks, without what they know of the bug
variants/<name>.scores.jsonl  of half of the tests: what its patches are worth by all of them
report.md, report.json, plots
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.bench.build import build_tasks, write_tasks
from pipeline.bench.held_back import num_held_back, visible_half
from pipeline.bench.measure import OverFit, against, figures, over_fit
from pipeline.bench.recipe import injected
from pipeline.bench.report import Measured, report_json, report_markdown
from pipeline.bench.score import Score, read_predictions
from pipeline.bench.sources import Library
from pipeline.bench.variants import Plan, Variant
from pipeline.compare import Batch, read_batch
from pipeline.core import Limits, Task
from pipeline.exceptions import InputError
from pipeline.runs import write_atomically

RunBatch = Callable[[Path, Path, Path], None]  # tasks, folder, settings; comes back when all are judged
# tasks, their patches, settings; the scores come in the tasks' order
ScorePatches = Callable[[Sequence[Task], Mapping[str, str], Path], Sequence[Score]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A benchmark to be run."""

    tasks: Sequence[Task]  # as `bench make` wrote them
    plan: Plan
    out: Path
    library: Library
    run_batch: RunBatch
    score: ScorePatches
    conditions: Mapping[str, Any]
    say: Callable[[str], None]
    seed: int = 0  # of the bootstrap, and of which tests are held back

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
            found = self._over_fit(name, batches[name], built) if variant.tests == "half" else None
            measured[name] = self._measured(variant, batches[name], next(iter(batches.values())), found)
            self._write(measured, {"variants run": f"{number} of {len(variants)}"})
        return measured

    def _batch(self, name: str, variant: Variant, built: Sequence[Task], max_depth: int) -> Batch:
        folder = self.out / "variants"
        tasks, settings = folder / f"{name}.jsonl", folder / f"{name}.yaml"
        write_tasks([_for_run(task, variant, self.seed) for task in built], tasks)
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

    def _over_fit(self, name: str, batch: Batch, built: Sequence[Task]) -> OverFit:
        """Judge the patches of a batch that saw half of the tests with all of them."""
        checked = [
            task
            for task in built
            if batch.results[task.task_id].is_solved and num_held_back(task, visible_half(task, self.seed))
        ]
        scores: Sequence[Score] = ()
        if checked:
            self.say(f"judging {len(checked)} patches of {name} with the tests that were held back")
            patches = read_predictions(batch.folder / "predictions.jsonl")
            scores = self.score(checked, patches, self.out / "variants" / f"{name}.yaml")
        lines = "".join(json.dumps(asdict(score)) + "\n" for score in scores)
        write_atomically(self.out / "variants" / f"{name}.scores.jsonl", lines.encode())
        return over_fit(batch, scores)

    def _measured(
        self, variant: Variant, batch: Batch, baseline: Batch, found_over_fit: OverFit | None
    ) -> Measured:
        found = figures(batch, self.tasks, has_own_search=variant.localisation == "own", seed=self.seed)
        other = None if batch is baseline else against(batch, baseline, seed=self.seed)
        return Measured(variant=variant, figures=found, against=other, over_fit=found_over_fit)

    def _write(self, measured: Mapping[str, Measured], more: Mapping[str, Any]) -> None:
        conditions = {**self.conditions, **more}
        write_atomically(self.out / "report.json", report_json(measured, conditions).encode())
        write_atomically(self.out / "report.md", report_markdown(measured, conditions).encode())


def _for_run(task: Task, variant: Variant, seed: int) -> Task:
    """Return the task without recipe and gold, which no search may see; an oracle names the functions."""
    task = visible_half(task, seed) if variant.tests == "half" else task
    places = tuple(dict.fromkeys(place.function for place in injected(task).gold))
    functions = places if variant.localisation == "oracle" else ()
    return task.model_copy(update={"metadata": {}, "functions": functions})
