"""A batch sees every instance to one of four outcomes, the same however many run at once, each only once."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import zlib
from dataclasses import replace

import pytest

from pipeline.batch.edges import BoundedSandbox
from pipeline.batch.outcome import InstanceOutcome, Row, busy_seconds
from pipeline.batch.planner import LocalPlanner, PlannerProgress
from pipeline.batch.runner import MAX_DEATHS
from pipeline.core import Outcome, SandboxResult
from pipeline.exceptions import (
    DiskFullError,
    EngineLostError,
    GeneratorError,
    InputError,
    PlannerDiedError,
    PrepareError,
    SandboxLostError,
)
from pipeline.graph.run import run_task
from pipeline.runs import RunFolder
from pipeline.testing import RecordingSandbox
from tests.unit.batches import Batch, instance, write_tasks
from tests.unit.junit import pytest_result
from tests.unit.planner import FILES, MODULE, SOURCE, make_repository, one_rung, settings_with

SOLVED, UNSOLVED, INVALID, INFRA = InstanceOutcome


@pytest.fixture
def batch(tmp_path) -> Batch:
    return Batch(tmp_path, right=("b", "d"))


def results_of(batch: Batch) -> list[dict]:
    return [json.loads(line) for line in batch.folder.results_path.read_text().splitlines()]


def comparable(rows: dict[str, Row]) -> dict[str, dict]:
    """Return what of the rows must not depend on when, where and beside what they were made."""
    cost = {"seconds", "sandbox_seconds", "num_sandbox_runs"}
    moment = {"started_at", "finished_at", "line"}
    return {name: row.model_dump(exclude=cost | moment) for name, row in rows.items()}


async def test_every_instance_ends_in_one_of_four_outcomes(batch, tmp_path):
    lines = batch.repositories("a", "b")
    make_repository(tmp_path / "fine", {**FILES, MODULE: SOURCE.replace("a - b", "a + b")})
    make_repository(tmp_path / "untested", {"calc/core.py": SOURCE})
    lines += [
        "{",
        instance("b", problem_statement="the same id"),
        instance("nowhere"),
        instance("fine", problem_statement=""),
        instance("wrong-ids") | {"repo": "./a", "FAIL_TO_PASS": ["tests/test_core.py::test_none"]},
        instance("wrong-commit") | {"repo": "./a", "base_commit": "f" * 40},
        instance("far") | {"repo": "http://127.0.0.1:9/x.git"},
        instance("untested"),
    ]
    played = batch.sandbox.respond

    def respond(request):
        has_tests = any(b"tests/" in layer for layer in request.layers)
        return played(request) if has_tests else pytest_result({}, exit_code=5)

    batch.sandbox.respond = respond
    rows = await batch.run(write_tasks(tmp_path / "tasks.jsonl", lines))
    assert batch.outcomes() == {
        "a": "unsolved",
        "b": "solved",
        "line 3": "invalid",
        "line 4": "invalid",
        "nowhere": "invalid",
        "fine": "invalid",
        "wrong-ids": "invalid",
        "wrong-commit": "invalid",
        "far": "infra",
        "untested": "invalid",
    }
    reasons = {name: row.reason for name, row in rows.items()}
    assert reasons["line 3"].startswith("line 3 cannot be used: it is not JSON")
    assert "its id b is that of line 2" in reasons["line 4"]
    assert "does not exist" in reasons["nowhere"]
    assert "passes already" in reasons["fine"]
    assert "runs no test tests/test_core.py::test_none" in reasons["wrong-ids"]
    assert "has no commit" in reasons["wrong-commit"]
    assert "cannot be reached" in reasons["far"]
    assert "found no tests" in reasons["untested"]
    assert [row["instance_id"] for row in results_of(batch)].count("b") == 1


async def test_a_solved_row_says_what_it_took(batch, tmp_path):
    rows = await batch.run(write_tasks(tmp_path / "tasks.jsonl", batch.repositories("b")))
    row, record = rows["b"], batch.folder.instance("b").load()
    assert (row.outcome, row.line, row.solved_at, row.rank, row.recurrence_depth) == (SOLVED, 1, 2, 1, 1)
    assert row.num_candidates == 4
    completions = [entry.completion for entry in record.rounds[0].candidates]
    assert row.tokens_at == sum(completion.num_completion_tokens for completion in completions[:3])
    assert row.tokens_at < row.num_tokens
    assert row.num_prompt_tokens == completions[0].num_prompt_tokens  # of four drafts of one prompt
    assert row.suspects[0] == f"{MODULE}::add"
    assert row.num_tokens == sum(c.completion.num_completion_tokens for c in record.rounds[0].candidates)
    assert (row.num_sandbox_runs, row.num_changed_lines) == (record.num_sandbox_runs, 2)
    assert batch.folder.instance("b").report_path.read_text().startswith("<!doctype html>")


async def test_predictions_hold_a_patch_for_each_that_was_attempted(batch, tmp_path):
    lines = [*batch.repositories("a", "b"), instance("nowhere")]
    await batch.run(write_tasks(tmp_path / "tasks.jsonl", lines))
    lines = [json.loads(line) for line in batch.folder.predictions_path.read_text().splitlines()]
    assert [(line["instance_id"], line["model_name_or_path"]) for line in lines] == [
        ("a", "loopwright-scripted"),
        ("b", "loopwright-scripted"),
    ]
    assert lines[0]["model_patch"] == ""
    assert lines[1]["model_patch"] == batch.folder.instance("b").load().patch.diff


@pytest.mark.parametrize("num_tasks", [1, 3, 8])
async def test_results_do_not_depend_on_how_many_run_at_once_or_on_their_order(tmp_path, num_tasks):
    names = list("abcde")
    one = Batch(tmp_path / "one", right=("b", "d"), num_tasks=1)
    expected = await one.run(write_tasks(tmp_path / "one/tasks.jsonl", one.repositories(*names)))

    many = Batch(tmp_path / "one", right=("b", "d"), num_tasks=num_tasks)
    many.folder = type(many.folder)(tmp_path / "many")
    many.settings = settings_with(one_rung(num_candidates=4), num_parallel=3)
    many.sandbox = Shuffled(respond=one.sandbox.respond)
    lines = [instance(name) for name in reversed(names)]
    found = await many.run(write_tasks(tmp_path / "one/other.jsonl", lines))
    assert comparable(found) == comparable(expected)


class Shuffled(RecordingSandbox):
    """Answers late, and in another order than it was asked."""

    async def run(self, request):
        for _ in range(zlib.crc32(request.run_id.encode()) % 7):
            await asyncio.sleep(0)
        return await super().run(request)


async def test_the_same_command_again_does_nothing_again(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", [*batch.repositories("a", "b"), "{"])
    first = await batch.run(tasks)
    num_requests, num_calls = len(batch.sandbox.requests), len(batch.generator.calls)
    second = await batch.run(tasks)
    assert (len(batch.sandbox.requests), len(batch.generator.calls)) == (num_requests, num_calls)
    assert comparable(second) == comparable(first)
    assert len(results_of(batch)) == 3


async def test_only_the_outcomes_that_are_named_are_done_again(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", [*batch.repositories("a", "b"), instance("nowhere")])
    await batch.run(tasks)
    del batch.sandbox.requests[:]
    make_repository(tmp_path / "nowhere")
    await batch.run(tasks, redo=[INVALID, UNSOLVED])
    names = {request.run_id.partition("-")[0] for request in batch.sandbox.requests}
    assert names == {"a", "nowhere"}  # b is solved
    assert batch.outcomes() == {"a": "unsolved", "b": "solved", "nowhere": "unsolved"}
    assert len(results_of(batch)) == 3


async def test_an_infra_failure_goes_on_where_it_was(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("b"))
    played = batch.sandbox.respond
    batch.sandbox.respond = lambda request: (
        played(request)
        if "baseline" in request.run_id or "coverage" in request.run_id
        else SandboxResult(outcome=Outcome.INFRA_ERROR, error="no space")
    )
    await batch.run(tasks)
    assert batch.outcomes() == {"b": "infra"}
    assert "the sandbox failed" in batch.rows["b"].reason

    batch.sandbox.respond = played
    before, num_calls = len(batch.sandbox.requests), len(batch.generator.calls)
    await batch.run(tasks, redo=[INFRA])
    assert batch.outcomes() == {"b": "solved"}
    assert not any("baseline" in request.run_id for request in batch.sandbox.requests[before:])
    assert len(batch.generator.calls) == num_calls  # what was drafted is kept


async def test_an_instance_whose_folder_was_removed_is_done_again(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a", "b"))
    await batch.run(tasks)
    batch.folder.instance("b").path.rename(tmp_path / "moved")
    before = len(batch.sandbox.requests)
    await batch.run(tasks)
    assert {r.run_id.partition("-")[0] for r in batch.sandbox.requests[before:]} == {"b"}


async def test_a_command_on_some_of_the_instances_keeps_what_became_of_the_others(batch, tmp_path):
    await batch.run(write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a", "b")))
    rows = await batch.run(write_tasks(tmp_path / "more.jsonl", batch.repositories("c")))
    assert batch.outcomes() == {"a": "unsolved", "b": "solved", "c": "unsolved"}
    assert [row["instance_id"] for row in results_of(batch)] == list(rows)
    assert len(batch.folder.predictions_path.read_text().splitlines()) == 3


async def test_a_torn_last_row_is_made_again_without_any_work(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a", "b"))
    first = await batch.run(tasks)
    whole = batch.folder.results_path.read_bytes()
    batch.folder.results_path.write_bytes(whole[:-40])
    before = len(batch.sandbox.requests)
    assert comparable(await batch.run(tasks)) == comparable(first)
    assert len(batch.sandbox.requests) == before
    assert len(results_of(batch)) == 2


async def test_an_instance_that_was_cut_goes_on_where_it_was(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a", "b", "c"))
    blocking = Blocking(respond=batch.sandbox.respond)
    blocking.reached = asyncio.Event()
    batch.sandbox = blocking
    running = asyncio.create_task(batch.run(tasks))
    await blocking.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    drafted = [call[0] for call in batch.generator.calls]
    finished = [r.run_id for r in batch.sandbox.requests]

    batch.sandbox = RecordingSandbox(respond=blocking.respond)
    await batch.run(tasks)
    assert batch.outcomes() == {"a": "unsolved", "b": "solved", "c": "unsolved"}
    assert not set(finished) & {r.run_id for r in batch.sandbox.requests}
    again = [call[0] for call in batch.generator.calls[len(drafted) :]]
    assert not any(prompts in drafted for prompts in again if "fix a" in prompts[0].messages[-1].content)


class Blocking(RecordingSandbox):
    """Never answers for a candidate of instance b."""

    async def run(self, request):
        if request.run_id.startswith("b-r1"):
            self.reached.set()
            await asyncio.Event().wait()
        return await super().run(request)


async def test_a_folder_with_other_settings_is_refused_and_says_which(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a"))
    await batch.run(tasks)
    batch.settings = batch.settings.model_copy(
        update={"planner": batch.settings.planner.model_copy(update={"seed": 5})}
    )
    with pytest.raises(InputError, match=r"other settings: planner\.seed"):
        await batch.run(tasks)


async def test_a_line_that_says_something_else_is_refused_unless_it_is_done_again(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a"))
    await batch.run(tasks)
    write_tasks(tasks, [instance("a", problem_statement="fix b")])
    with pytest.raises(InputError, match="line 1: a is not the task that it was"):
        await batch.run(tasks)
    await batch.run(tasks, redo=[UNSOLVED])
    assert batch.outcomes() == {"a": "solved"}


async def test_a_half_done_instance_whose_line_changed_is_refused(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a"))
    await batch.run(tasks)
    batch.folder.results_path.unlink()
    write_tasks(tasks, [instance("a", problem_statement="other")])
    with pytest.raises(InputError, match="not the task that it was"):
        await batch.run(tasks)


async def test_a_folder_of_something_else_is_refused(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a"))
    batch.folder.path.mkdir()
    (batch.folder.path / "thesis.tex").touch()
    with pytest.raises(InputError, match="not the folder of a batch"):
        await batch.run(tasks)


async def test_two_commands_cannot_work_on_one_batch(batch, tmp_path):
    with batch.folder.opened(batch.settings), pytest.raises(InputError, match="another process works"):
        await batch.run(write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a")))


class Mortal:
    """A planner that dies under the instances that are named, as often as it is told."""

    def __init__(self, inner: LocalPlanner, deaths: dict[str, int]) -> None:
        self._inner, self._deaths, self._is_dead = inner, deaths, False

    async def run(self, instance):
        name = instance.task.task_id
        if self._deaths.get(name, 0) and not self._is_dead:
            self._deaths[name] -= 1
            self._is_dead = True
        if self._is_dead:
            raise PlannerDiedError("its process was killed")
        return await self._inner.run(instance)

    async def progress(self):
        if self._is_dead:
            raise PlannerDiedError("its process was killed")
        return PlannerProgress()


class Fleet:
    """Planners in this process, any of which may die."""

    def __init__(self, batch: Batch, deaths: dict[str, int], num_planners: int = 2) -> None:
        self._batch, self._deaths = batch, deaths
        self.num_tasks, self.num_replaced = 2, 0
        self.planners = [self._new() for _ in range(num_planners)]

    async def replace(self, dead):
        self.num_replaced += 1
        return self._new()

    def _new(self) -> Mortal:
        return Mortal(LocalPlanner(self._batch.dependencies(), self._batch.folder.instances), self._deaths)


async def test_a_dead_planner_is_replaced_and_its_instances_go_on(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories(*"abcd"))
    fleet = Fleet(batch, {"b": 2})
    await batch.run(tasks, fleet=fleet)
    assert batch.outcomes() == {"a": "unsolved", "b": "solved", "c": "unsolved", "d": "solved"}
    assert fleet.num_replaced == 2


async def test_an_instance_under_which_planners_keep_dying_is_given_up_and_the_others_go_on(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories(*"ab"))
    fleet = Fleet(batch, {"a": 99}, num_planners=1)
    fleet.num_tasks = 1
    await batch.run(tasks, fleet=fleet)
    assert batch.outcomes() == {"a": "infra", "b": "solved"}
    assert f"{MAX_DEATHS} planners died" in batch.rows["a"].reason


async def test_an_engine_that_fails_again_and_again_stops_the_batch_and_spoils_no_more_of_it(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories(*"abcdef"))
    batch.num_tasks = 1
    scripted = batch.generator.reply

    def dead(*_):
        raise GeneratorError("the engine is gone")

    batch.generator.reply = dead
    with pytest.raises(EngineLostError, match="3 times in a row: the engine is gone"):
        await batch.run(tasks)
    assert batch.outcomes() == {"a": "infra", "b": "infra"}
    batch.generator.reply = scripted
    await batch.run(tasks, redo=[INFRA])
    assert batch.outcomes() == dict.fromkeys("acef", "unsolved") | dict.fromkeys("bd", "solved")


async def test_a_sandbox_that_is_lost_stops_the_batch_and_the_same_command_goes_on(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories(*"abcdef"))
    scripted, num_runs = batch.sandbox.respond, itertools.count()

    def lost(request):
        if next(num_runs) > 5:
            raise SandboxLostError("the sandbox is lost: connection refused")
        return scripted(request)

    batch.sandbox.respond = lost
    with pytest.raises(SandboxLostError):
        await batch.run(tasks)
    assert "infra" not in batch.outcomes().values()
    batch.sandbox.respond = scripted
    await batch.run(tasks)
    assert batch.outcomes() == dict.fromkeys("acef", "unsolved") | dict.fromkeys("bd", "solved")


async def test_what_a_planner_without_sandbox_cannot_do_another_one_does(batch, tmp_path):
    class WithoutSandbox:
        async def run(self, instance):
            raise SandboxLostError("the sandbox is lost: connection refused")

        async def progress(self):
            return PlannerProgress()

    fleet = Fleet(batch, {})
    fleet.planners = [WithoutSandbox(), *fleet.planners]
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories(*"abcd"))
    await batch.run(tasks, fleet=fleet)
    assert batch.outcomes() == {"a": "unsolved", "b": "solved", "c": "unsolved", "d": "solved"}


async def test_a_full_disk_stops_the_batch_and_is_no_outcome(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories(*"ab"))
    batch.num_tasks = 1
    scripted = batch.sandbox.respond

    def full(_request):
        raise OSError(errno.ENOSPC, "No space left on device")

    batch.sandbox.respond = full
    with pytest.raises(DiskFullError, match="No space left"):
        await batch.run(tasks)
    assert batch.rows == {}
    batch.sandbox.respond = scripted
    await batch.run(tasks)
    assert batch.outcomes() == {"a": "unsolved", "b": "solved"}


async def test_no_more_sandboxes_run_at_once_than_are_allowed_whatever_number_of_tasks():
    num_running = most = 0

    class Counting:
        name = "counting"

        async def run(self, request):
            nonlocal num_running, most
            num_running += 1
            most = max(most, num_running)
            for _ in range(5):
                await asyncio.sleep(0)
            num_running -= 1
            return SandboxResult(outcome=Outcome.EXITED)

    sandbox = BoundedSandbox(Counting(), num_parallel=3)
    await asyncio.gather(*(sandbox.run(None) for _ in range(20)))
    assert (sandbox.name, most) == ("counting", 3)


async def test_an_unknown_failure_is_infra_and_leaves_its_traceback(batch, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a", "b"))
    played = batch.sandbox.respond

    def broken(request):
        if request.run_id.startswith("a-"):
            raise ZeroDivisionError("ours")
        return played(request)

    batch.sandbox.respond = broken
    await batch.run(tasks)
    assert batch.outcomes() == {"a": "infra", "b": "solved"}
    assert batch.rows["a"].reason == "internal error, ZeroDivisionError: ours"
    assert "Traceback" in (batch.folder.instance("a").path / "error.txt").read_text()


async def test_a_target_that_cannot_be_prepared_is_infra(batch, tmp_path):
    class Failing:
        async def prepare(self, tree):
            raise PrepareError("no wheel for x")

    tasks = write_tasks(tmp_path / "tasks.jsonl", batch.repositories("a"))
    dependencies = batch.dependencies
    batch.dependencies = lambda: replace(dependencies(), environments=Failing())
    await batch.run(tasks)
    assert (batch.outcomes(), batch.rows["a"].reason) == ({"a": "infra"}, "no wheel for x")


async def test_the_status_counts_up_to_the_whole(batch, tmp_path):
    await batch.run(write_tasks(tmp_path / "tasks.jsonl", batch.repositories(*"abc")))
    last = batch.statuses[-1]
    assert (last.num_total, last.num_left, last.num_running, last.num_done_now) == (3, 0, 0, 3)
    assert last.counts == {UNSOLVED: 2, SOLVED: 1}
    assert last.num_tokens_now == sum(row.num_tokens for row in batch.rows.values())
    assert max(status.num_running for status in batch.statuses) == batch.num_tasks


def test_time_counts_once_however_many_instances_ran_in_it():
    def row(start: str, end: str) -> Row:
        times = {"started_at": f"2026-01-01T{start}:00Z", "finished_at": f"2026-01-01T{end}:00Z"}
        return Row(instance_id="a", outcome=SOLVED, line=1, **times)

    rows = [row("10:00", "10:10"), row("10:05", "10:15"), row("10:06", "10:07"), row("11:00", "11:01")]
    assert busy_seconds(rows) == 16 * 60


async def test_a_task_that_shares_its_engine_has_so_many_times_its_wall_seconds(batch, tmp_path):
    [line] = batch.repositories("b")
    tasks = write_tasks(tmp_path / "tasks.jsonl", [line])
    await batch.run(tasks)
    record = batch.folder.instance("b").load()
    used = sum(record.seconds_by_stage.values())
    limits = record.task.limits.model_copy(update={"wall_seconds": used / 1000})
    task = record.task.model_copy(update={"limits": limits})

    alone = await run_task(task, RunFolder(tmp_path / "alone"), batch.dependencies())
    assert (alone.status, "wall_seconds" in alone.reason) == ("unsolved", True)
    shared = replace(batch.dependencies(), num_sharing=1_000_000)
    assert (await run_task(task, RunFolder(tmp_path / "shared"), shared)).status == "solved"
