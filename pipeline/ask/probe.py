"""Probes what a model can do at a recurrence depth, so that each is only given work that it is fit for."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.ask.probe_tasks import FILES, JUDGEMENTS, VERSION, ReplTask, repl_tasks
from pipeline.context.actions.localise import ActionSettings, localise_by_actions
from pipeline.context.descent.pieces import Pieces, body_of
from pipeline.context.descent.scorer import YesNoScorer
from pipeline.context.lexical import LexicalIndex
from pipeline.context.reading import Query
from pipeline.context.reading_trace import Trace
from pipeline.context.rlm.answer import answer
from pipeline.context.rlm.settings import RecursionSettings
from pipeline.context.spending import Purse
from pipeline.context.tree.index import index
from pipeline.context.units import units
from pipeline.core import Budget
from pipeline.exceptions import InputError
from pipeline.protocols import Generator, Sandbox
from pipeline.snapshot import Snapshot
from pipeline.telemetry import Action, Emit, Event

_REPL = Budget(num_calls=8, num_tokens=40_000, wall_seconds=900.0, max_depth=0)  # of each task
_ACTIONS = Budget(num_calls=8 * len(JUDGEMENTS), num_tokens=400_000, wall_seconds=1800.0, max_depth=0)
_NUM_ITERATIONS = 4  # turns for a task that one cell can solve


class Capability(BaseModel):
    """What a model could do when it was probed. Shares from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str  # with its revision, as the Generator names it
    recurrence_depth: int
    version: int  # of the probe
    repl: float  # of the tasks for a REPL, those answered exactly
    auc: float  # of yes/no: how often the function that a question is about scores higher than another one
    actions: float  # of the questions, those whose function it named or read first
    words: float  # the same of the words' ranking, which asks no model
    seconds: float


async def probed(
    generator: Generator, sandbox: Sandbox, folder: Path, *, recurrence_depth: int, emit: Emit
) -> Capability:
    """Ask a model everything that the probe asks, and return what came of it.

    Raises:
        GeneratorError: the engine failed.
        SandboxError: no REPL can be started.
    """
    begun_at = time.monotonic()
    shop = _Shop(folder / "shop")
    _say(emit, f"yes or no, {len(JUDGEMENTS)} questions on every function")
    auc = await shop.auc(generator, recurrence_depth)
    _say(emit, f"actions, {len(JUDGEMENTS)} questions")
    try:
        actions = await shop.actions(generator, recurrence_depth, folder)
    except InputError:  # a server that takes no grammar
        actions = 0.0
    tasks = repl_tasks()
    _say(emit, f"a REPL, {len(tasks)} tasks")
    settings = RecursionSettings(num_iterations=_NUM_ITERATIONS).at_depth(recurrence_depth)
    passed = await asyncio.gather(
        *(_passes(task, generator, sandbox, folder / f"task{n}", settings) for n, task in enumerate(tasks))
    )
    return Capability(
        model=(await generator.info()).model,
        recurrence_depth=recurrence_depth,
        version=VERSION,
        repl=sum(passed) / len(tasks),
        auc=auc,
        actions=actions,
        words=shop.words_alone(),
        seconds=time.monotonic() - begun_at,
    )


class _Shop:
    """The repository that the probe asks about."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        snapshot = Snapshot(folder, "", changed={path: text.encode() for path, text in FILES.items()})
        self.tree = index(snapshot)
        self.words = LexicalIndex(units(self.tree, snapshot))

    async def auc(self, generator: Generator, recurrence_depth: int) -> float:
        by_place = {unit.place: body_of(unit) for unit in self.words.units}
        scorer = YesNoScorer(
            generator, Pieces(self.tree, self.words.units), recurrence_depth=recurrence_depth
        )
        functions = [unit.place for unit in self.words.units if unit.node.kind == "function"]
        wins: list[float] = []
        for one in JUDGEMENTS:
            scores = await scorer.scores(one.question, [by_place[place] for place in functions])
            values = {place: s.value or 0.0 for place, s in zip(functions, scores, strict=True)}
            right = values.pop(one.right)
            # Mann and Whitney, among the functions of one question: nothing else is ever compared.
            wins += [(right > wrong) + (right == wrong) / 2 for wrong in values.values()]
        return sum(wins) / len(wins)

    async def actions(self, generator: Generator, recurrence_depth: int, folder: Path) -> float:
        purse = Purse.open(folder / "spending.sqlite", _ACTIONS, time.time() + _ACTIONS.wall_seconds)
        settings = ActionSettings(recurrence_depth=recurrence_depth)
        num_found = 0
        for one in JUDGEMENTS:
            found = await localise_by_actions(
                Query(text=one.question),
                self.tree,
                self.words,
                generator=generator,
                purse=purse,
                trace=Trace(),
                settings=settings,
            )
            num_found += [f"{span.path}::{span.qualname}" for span in found.spans[:1]] == [one.right]
        return num_found / len(JUDGEMENTS)

    def words_alone(self) -> float:
        firsts = [[r.unit.place for r in self.words.ranked(one.question)[:1]] for one in JUDGEMENTS]
        return sum(first == [one.right] for first, one in zip(firsts, JUDGEMENTS, strict=True)) / len(firsts)


async def _passes(
    task: ReplTask, generator: Generator, sandbox: Sandbox, folder: Path, settings: RecursionSettings
) -> bool:
    found = await answer(
        Query(text=task.question),
        task.text,
        _REPL,
        generator=generator,
        sandbox=sandbox,
        folder=folder,
        settings=settings,
    )
    return found.text.strip().strip(".'\"`") == task.answer


def _say(emit: Emit, what: str) -> None:
    emit(Event(Action.PROGRESS, f"probing: {what}", {"stage": "probe"}))
