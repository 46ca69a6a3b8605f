"""The policy: the ladder's order by default; what past verdicts promise, where it is to learn."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from model.testing import make_tiny_checkpoint
from pipeline.cli.app import app
from pipeline.config import Rung, Settings, load_settings
from pipeline.core import VerdictKind
from pipeline.exceptions import InputError
from pipeline.graph.run import run_task
from pipeline.policy.arms import ArmStats, Tally, arm_name, outcomes_of, stats_of
from pipeline.policy.choice import choose_rung, estimate
from pipeline.policy.store import OutcomeStore
from pipeline.runs import RoundRecord, RunFolder, RunRecord
from pipeline.testing import ScriptedGenerator
from tests.unit.planner import RIGHT, WRONG, Edges, make_repository, make_task, settings_with
from tests.unit.records import bare_record, candidate_record, solved_record

LINE = Rung(strategy="line", num_candidates=64, num_suspects=2)
WHOLE = Rung(num_candidates=8)
FEEDBACK = Rung(num_candidates=8, feedback=True)
LADDER = (WHOLE, LINE, FEEDBACK)
GOOD = ArmStats(first=Tally(num_tried=40, num_solved=30, num_tokens=40 * 500))
BAD = ArmStats(first=Tally(num_tried=40, num_solved=1, num_tokens=40 * 1200))
NEW = ArmStats()


def choices(stats, *, num_runs: int = 200, **options) -> list[int]:
    options = {"used": set(), "has_attempts": True, **options}
    found = (choose_rung(LADDER, stats=stats, seed=f"task{i}", **options) for i in range(num_runs))
    return [choice.number for choice in found if choice]


def round_of(number: int, *kinds: VerdictKind | None, rung: Rung = LINE, refused: str = "") -> RoundRecord:
    candidates = [candidate_record(i, kind, refused=refused) for i, kind in enumerate(kinds)]
    return RoundRecord(number=number, rung=rung, candidates=candidates)


def record_of(*rounds: RoundRecord, **fields) -> RunRecord:
    return bare_record().model_copy(update={"rounds": list(rounds), "model": "m", **fields})


def test_without_statistics_the_ladder_is_climbed_in_its_order():
    climbed = []
    while choice := choose_rung(LADDER, used=climbed, has_attempts=False):
        climbed.append(choice.number)
    assert climbed == [0, 1, 2]


def test_the_arm_that_solved_most_per_token_is_preferred():
    numbers = choices([BAD, GOOD, BAD])
    assert numbers.count(1) > 190


def test_an_arm_that_was_never_tried_is_tried_at_times():
    numbers = choices([BAD, BAD, NEW])
    assert 0 < numbers.count(2) < 200


def test_a_used_rung_is_never_chosen_again():
    assert 1 not in choices([GOOD, GOOD, GOOD], used={1})
    assert choices([GOOD, GOOD, GOOD], used={0, 1, 2}) == []


def test_a_feedback_rung_waits_until_there_is_something_to_show():
    assert 2 not in choices([BAD, BAD, GOOD], has_attempts=False)
    assert choices([BAD, BAD, GOOD], has_attempts=False, used={0, 1}) == [2] * 200  # it is all that is left


def test_the_same_task_and_statistics_choose_the_same():
    assert choices([NEW, NEW, NEW], num_runs=30) == choices([NEW, NEW, NEW], num_runs=30)


def test_a_later_round_is_judged_by_later_rounds():
    good_opening = ArmStats(first=GOOD.first, later=BAD.first)
    good_later = ArmStats(first=BAD.first, later=GOOD.first)
    assert choices([BAD, good_opening, good_later]).count(1) > 190
    assert choices([BAD, good_opening, good_later], used={0}).count(2) > 190


def test_the_estimate_is_the_beta_posterior_over_the_mean_cost():
    believed = estimate(LINE, Tally(num_tried=8, num_solved=4, num_tokens=8 * 1000))
    assert believed.solve_rate == pytest.approx((0.4 + 4) / (2 + 8))
    assert believed.tokens_per_round == pytest.approx((64 * 12 * 2 + 8000) / 10)
    assert believed.solved_per_1000_tokens == pytest.approx(1000 * 0.44 / 953.6)
    assert believed.low < 0.44 < believed.high


def test_every_setting_of_a_rung_makes_another_arm():
    rungs = [
        LINE,
        LINE.model_copy(update={"num_candidates": 65}),
        LINE.model_copy(update={"num_suspects": 3}),
        LINE.model_copy(update={"recurrence_depth": 2}),
        LINE.model_copy(update={"temperature": 1.0}),
        LINE.model_copy(update={"decoding": "branch"}),
        LINE.model_copy(update={"context": "wide"}),
        LINE.model_copy(update={"feedback": True}),
        LINE.model_copy(update={"model": "strong"}),
        LINE.model_copy(update={"strategy": "definition"}),
    ]
    assert set(Rung.model_fields) == {
        field for rung in rungs for field in Rung.model_fields if getattr(rung, field) != getattr(LINE, field)
    }, "a field of Rung that this test, and perhaps arm_name, does not know"
    assert len({arm_name(rung) for rung in rungs}) == len(rungs)


def test_a_rounds_outcome_says_what_it_cost_and_whether_it_solved():
    record = record_of(round_of(1, VerdictKind.UNCHANGED), round_of(2, VerdictKind.RESOLVED, rung=WHOLE))
    first, second = outcomes_of(record)
    assert (first.arm, first.position, first.is_solved) == (arm_name(LINE), 0, False)
    assert (second.arm, second.position, second.is_solved) == (arm_name(WHOLE), 1, True)
    assert first.num_tokens == record.rounds[0].candidates[0].completion.num_completion_tokens


def test_a_round_that_was_cut_off_says_nothing():
    assert outcomes_of(record_of(round_of(1))) == []
    assert outcomes_of(record_of(round_of(1, VerdictKind.UNCHANGED, None))) == []
    assert outcomes_of(record_of(round_of(1, VerdictKind.INFRA_ERROR))) == []
    assert len(outcomes_of(record_of(round_of(1, None, refused="prose")))) == 1


def test_statistics_tell_opening_rounds_from_later_ones():
    record = record_of(round_of(1, VerdictKind.UNCHANGED), round_of(2, VerdictKind.RESOLVED))
    (stats,) = stats_of((LINE,), outcomes_of(record))
    assert (stats.first.num_tried, stats.first.num_solved) == (1, 0)
    assert (stats.later.num_tried, stats.later.num_solved) == (1, 1)


def test_a_run_that_is_added_twice_counts_once(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes.jsonl")
    record = record_of(round_of(1, VerdictKind.RESOLVED))
    assert (store.add(record), store.add(record)) == (1, 0)
    again = record.model_copy(update={"started_at": datetime(2030, 1, 1, tzinfo=UTC)})
    assert store.add(again) == 1  # the same id in another folder of runs
    assert len(store.load("m")) == 2
    assert store.load("another") == []


def test_a_torn_line_costs_only_itself(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes.jsonl")
    store.add(record_of(round_of(1, VerdictKind.RESOLVED)))
    with store.path.open("a") as stream:
        stream.write('{"run_id": "half')
    store.add(record_of(round_of(1, VerdictKind.UNCHANGED), run_id="other"))
    assert [outcome.is_solved for outcome in store.load("m")] == [True, False]


def test_a_rung_of_the_strong_model_needs_its_server(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("planner: {ladder: [{model: strong}]}")
    with pytest.raises(InputError, match="set strong"):
        load_settings(config)


async def test_a_run_learns_and_the_next_one_chooses_by_it(tmp_path):
    repo = make_repository(tmp_path / "repo")
    ladder = (Rung(num_candidates=1), Rung(num_candidates=1, temperature=0.5, recurrence_depth=2))
    settings = settings_with(ladder).model_copy(
        update={"planner": Settings(planner={"ladder": ladder, "policy": "learned"}).planner}
    )
    path = tmp_path / "outcomes.jsonl"

    async def run(name: str) -> RunRecord:
        def reply(_prompt, sampling, _number):
            return (RIGHT if sampling.recurrence_depth == 2 else WRONG) + "    # as long as a real draft" * 20

        edges = Edges(ScriptedGenerator(reply=reply), settings=settings)
        deps = replace(edges.dependencies(tmp_path), outcomes_path=path)
        return await run_task(make_task(repo), RunFolder(tmp_path / name), deps)

    records = [await run(f"run{i}") for i in range(12)]
    assert {record.status for record in records} == {"solved"}
    assert [record.rounds[0].rung_number for record in records[-4:]] == [1] * 4
    assert "learned" in records[-1].rounds[0].reason
    assert len(OutcomeStore(path).load(records[0].model)) == sum(len(record.rounds) for record in records)


async def test_a_rung_of_the_strong_model_is_drafted_by_it(tmp_path):
    repo = make_repository(tmp_path / "repo")
    ladder = (Rung(num_candidates=1), Rung(num_candidates=1, model="strong"))
    settings = Settings(planner={"ladder": ladder}, strong={"url": "http://strong.example/v1"})
    edges = Edges(ScriptedGenerator(reply=lambda *_: WRONG), settings=settings)
    strong = ScriptedGenerator(reply=lambda *_: RIGHT)
    deps = replace(edges.dependencies(tmp_path), strong=strong)
    record = await run_task(make_task(repo), RunFolder(tmp_path / "run"), deps)
    assert (record.status, len(record.rounds)) == ("solved", 2)
    assert len(strong.calls) == 1


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_policy_show_tells_the_order_before_anything_was_learned(home):
    result = CliRunner().invoke(app, ["policy", "show"])
    assert result.exit_code == 0
    assert "rungs are climbed in their order" in result.stdout
    assert "line 64/3, depth 1" in result.stdout


def test_policy_show_tells_what_a_looped_model_did_at_its_own_depth(home, tmp_path):
    make_tiny_checkpoint("ouro", tmp_path / "model", recurrence_depth=3)
    result = CliRunner().invoke(app, ["policy", "show", "--model", str(tmp_path / "model")])
    assert "line 64/3, depth 3" in result.stdout


def test_policy_learn_counts_finished_runs_once_and_show_tells_them(home, tmp_path):
    RunFolder(tmp_path / "runs" / "a").save(solved_record())
    for expected in ("rounds of 1 runs", "0 rounds of 1 runs"):
        learned = CliRunner().invoke(app, ["policy", "learn", str(tmp_path / "runs")])
        assert learned.exit_code == 0
        assert expected in learned.stdout
    shown = CliRunner().invoke(app, ["policy", "show", "--json"])
    assert list(json.loads(shown.stdout)["models"]) == [solved_record().model]


def test_policy_learn_without_runs_is_bad_input(home, tmp_path):
    result = CliRunner().invoke(app, ["policy", "learn", str(tmp_path)])
    assert result.exit_code == 2
