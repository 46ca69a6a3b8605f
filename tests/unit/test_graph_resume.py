"""A run that is cut anywhere goes on where it was, and pays for nothing twice."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace

import pytest
from filelock import FileLock

from pipeline.config import Rung
from pipeline.core import Limits
from pipeline.exceptions import InputError
from pipeline.graph.run import run_task
from pipeline.runs import RunFolder, RunRecord
from pipeline.telemetry import Event
from pipeline.testing import RecordingSandbox, ScriptedGenerator
from tests.unit.planner import (
    MODULE,
    RIGHT,
    WRONG,
    Edges,
    make_repository,
    make_task,
    one_rung,
    settings_with,
)

LADDER = (Rung(num_candidates=3), Rung(num_candidates=3, feedback=True), Rung(num_candidates=2))
MAX_CUTS = 200


class CutError(Exception):
    """The process dies here."""


@pytest.fixture
def repo(tmp_path):
    return make_repository(tmp_path / "repo")


def long_walk() -> Edges:
    """Edges of a run that visits every node but give_up: escalated, revised, solved in the third round."""
    texts = {1: WRONG, 2: "\n    return b - a\n", 3: RIGHT}

    def reply(_prompt, sampling, number):
        round_number = sampling.seed // 1000
        return (
            texts.get(round_number, WRONG)
            if number == 0
            else f"\n    return a * b + {sampling.seed + number}\n"
        )

    return Edges(ScriptedGenerator(reply=reply), settings=settings_with(LADDER))


async def run_to_the_end(tmp_path, task, edges: Edges, name: str = "run") -> tuple[RunRecord, int]:
    """Start the run again after every cut; return its record and how often it was cut."""
    for num_cuts in range(MAX_CUTS):
        try:
            record = await run_task(task, RunFolder(tmp_path / name), edges.dependencies(tmp_path / "cache"))
        except CutError:
            continue
        return record, num_cuts
    raise AssertionError("it never ended")


def story(record: RunRecord) -> dict:
    """Return what a run says, without its clock and its name."""
    data = record.model_dump(mode="json")
    for key in ("run_id", "started_at", "finished_at"):
        data.pop(key)
    data["seconds_by_stage"] = sorted(data["seconds_by_stage"])
    for round_ in data["rounds"]:
        round_.pop("draft_seconds")
        round_.pop("test_seconds")
    return data


def contents(sandbox: RecordingSandbox, name: str) -> list:
    """Return the requests, without the run's name in their labels."""
    return [replace(r, run_id=r.run_id.removeprefix(f"{name}-")) for r in sandbox.requests]


async def test_cut_before_and_after_every_node_it_pays_for_nothing_twice(tmp_path, repo):
    task = make_task(repo)
    whole = long_walk()
    expected, _ = await run_to_the_end(tmp_path, task, whole, "whole")
    assert expected.status == "solved"
    assert len(expected.rounds) == 3

    cut = long_walk()
    seen: set[tuple] = set()

    def die_once(event: Event) -> None:
        position = (event.action, event.message.split(" took ")[0], len(cut.sandbox.requests))
        if position not in seen:
            seen.add(position)
            raise CutError(position)

    cut.events = type("Sink", (), {"append": staticmethod(die_once)})()
    record, num_cuts = await run_to_the_end(tmp_path, task, cut, "cut")
    assert num_cuts > 2 * len(expected.seconds_by_stage)
    assert story(record) == story(expected)
    assert contents(cut.sandbox, "cut") == contents(whole.sandbox, "whole")
    assert cut.generator.calls == whole.generator.calls


async def test_cut_inside_every_sandbox_run_and_completion_it_finishes_each_once(tmp_path, repo):
    task = make_task(repo)
    whole = long_walk()
    expected, _ = await run_to_the_end(tmp_path, task, whole, "whole")

    cut = long_walk()
    answer, reply, begun = cut.sandbox.respond, cut.generator.reply, set()

    def die_once(key):
        if key not in begun:
            begun.add(key)
            raise CutError(key)

    def respond(request):
        if request.run_id not in begun:
            cut.sandbox.requests.pop()  # it never finished
        die_once(request.run_id)
        return answer(request)

    def dying_reply(prompt, sampling, number):
        if (prompt, sampling) not in begun:
            cut.generator.calls.pop()
        die_once((prompt, sampling))
        return reply(prompt, sampling, number)

    cut.sandbox.respond, cut.generator.reply = respond, dying_reply
    record, num_cuts = await run_to_the_end(tmp_path, task, cut, "cut")
    assert num_cuts == len(whole.sandbox.requests) + len(whole.generator.calls)
    assert story(record) == story(expected)
    assert contents(cut.sandbox, "cut") == contents(whole.sandbox, "whole")
    assert cut.generator.calls == whole.generator.calls


class Blocking(RecordingSandbox):
    """Never answers a candidate, so that the run can be cancelled while it waits."""

    async def run(self, request):
        if len(request.layers) > 2:  # more than the base and its history
            self.requests.append(request)
            self.reached.set()
            await asyncio.Event().wait()
        return await super().run(request)


async def test_a_cancelled_run_is_saved_as_interrupted_and_resumes(tmp_path, repo):
    edges = Edges(ScriptedGenerator(reply=[RIGHT]))
    blocking = Blocking(respond=edges.sandbox.respond)
    blocking.reached = asyncio.Event()
    folder = RunFolder(tmp_path / "run")
    dependencies = replace(edges.dependencies(tmp_path), sandbox=blocking)
    running = asyncio.create_task(run_task(make_task(repo), folder, dependencies))
    await blocking.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    record = folder.load()
    assert record.status == "interrupted"
    assert record.rounds[0].candidates  # what was drafted is kept

    record = await run_task(make_task(repo), folder, edges.dependencies(tmp_path))
    assert record.status == "solved"
    assert len(edges.generator.calls) == 2  # greedy and sampled, both of the first process


async def test_a_finished_run_is_returned_without_any_work(tmp_path, repo):
    edges, folder = Edges(ScriptedGenerator(reply=[RIGHT])), RunFolder(tmp_path / "run")
    record = await run_task(make_task(repo), folder, edges.dependencies(tmp_path))
    assert not folder.checkpoint_path.exists()  # it would only take space
    num_requests = len(edges.sandbox.requests)
    assert await run_task(make_task(repo), folder, edges.dependencies(tmp_path)) == record
    assert len(edges.sandbox.requests) == num_requests


async def test_a_run_that_failed_is_tried_again(tmp_path, repo):
    edges, folder = Edges(ScriptedGenerator(reply=[RIGHT])), RunFolder(tmp_path / "run")
    broken = replace(edges.dependencies(tmp_path), environments=Failing())
    with pytest.raises(CutError):
        await run_task(make_task(repo), folder, broken)
    assert folder.load().status == "failed"
    assert (await run_task(make_task(repo), folder, edges.dependencies(tmp_path))).status == "solved"


class Failing:
    """An environment builder that dies."""

    async def prepare(self, tree):
        raise CutError


async def test_a_folder_of_another_task_or_other_settings_is_refused(tmp_path, repo):
    edges, folder = Edges(ScriptedGenerator(reply=[WRONG])), RunFolder(tmp_path / "run")
    await run_task(make_task(repo), folder, edges.dependencies(tmp_path))
    with pytest.raises(InputError, match="another task"):
        await run_task(make_task(repo, limits=Limits(num_tokens=5)), folder, edges.dependencies(tmp_path))
    edges.settings = settings_with(one_rung(num_candidates=2))
    with pytest.raises(InputError, match="other settings"):
        await run_task(make_task(repo), folder, edges.dependencies(tmp_path))


async def test_a_snapshot_that_was_changed_is_not_judged_further(tmp_path, repo):
    edges, folder = Edges(ScriptedGenerator(reply=[WRONG])), RunFolder(tmp_path / "run")

    def dying_reply(*_):
        raise CutError

    edges.generator.reply = dying_reply
    with pytest.raises(CutError):
        await run_task(make_task(repo), folder, edges.dependencies(tmp_path))
    (folder.path / "snapshot" / MODULE).write_text("def add(a, b):\n    return 3\n")
    with pytest.raises(InputError, match="was changed"):
        await run_task(make_task(repo), folder, edges.dependencies(tmp_path))


async def test_two_processes_cannot_work_on_one_run(tmp_path, repo):
    edges, folder = Edges(ScriptedGenerator(reply=[WRONG])), RunFolder(tmp_path / "run")
    folder.path.mkdir()
    with FileLock(folder.path / "run.lock"), pytest.raises(InputError, match="another process"):
        await run_task(make_task(repo), folder, edges.dependencies(tmp_path))


async def test_no_class_of_ours_is_in_a_checkpoint(tmp_path, repo):
    edges, folder = long_walk(), RunFolder(tmp_path / "run")

    def die_at_the_end(event: Event) -> None:
        if event.data.get("stage") == "report":
            raise CutError

    with pytest.raises(CutError):
        await run_task(make_task(repo), folder, replace(edges.dependencies(tmp_path), emit=die_at_the_end))
    with sqlite3.connect(folder.checkpoint_path) as connection:
        blobs = [row[0] for row in connection.execute("select checkpoint from checkpoints")]
        blobs += [row[0] for row in connection.execute("select value from writes")]
    assert len(blobs) > 20
    assert not any(b"pipeline.core" in blob or b"pipeline.graph" in blob for blob in blobs)


async def test_a_run_killed_before_its_report_still_gets_one(tmp_path, repo):
    edges, folder = Edges(ScriptedGenerator(reply=[RIGHT])), RunFolder(tmp_path / "run")

    def die_before_the_report(event: Event) -> None:
        if event.data.get("stage") == "report":
            raise CutError

    dying = replace(edges.dependencies(tmp_path), emit=die_before_the_report)
    with pytest.raises(CutError):
        await run_task(make_task(repo), folder, dying)
    # As a kill would leave it: `select` has saved its word, and nobody wrote that the run failed.
    folder.save(folder.load().model_copy(update={"status": "solved", "reason": ""}))
    record = await run_task(make_task(repo), folder, edges.dependencies(tmp_path))
    assert record.finished_at is not None
    assert (folder.path / "patch.diff").exists()
