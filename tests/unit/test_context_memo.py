"""What is promised of kept scores: none is paid for twice, and none is taken for another one."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from hashlib import sha256

import pytest

from pipeline.context.descent.judge import Judge
from pipeline.context.descent.memo import MemoScorer, ScoreMemo
from pipeline.context.descent.pieces import Piece
from pipeline.context.descent.scorer import Score, YesNoScorer, score_key
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import Purse
from pipeline.core import Budget, Step
from pipeline.exceptions import GeneratorError
from pipeline.testing import ScriptedGenerator

SCORE = Score(1.5, 2.5, 30, 3, 3)
ASKED = {"model": "m", "recurrence_depth": 1, "calibration": "both", "prompt_version": 1}


class Texts:
    """Pieces that say their own names."""

    def text(self, piece):
        return piece.key


def scorer(memo: ScoreMemo, generator: ScriptedGenerator | None = None, **options) -> MemoScorer:
    return MemoScorer(YesNoScorer(generator or engine(), Texts(), **options), memo)


def engine() -> ScriptedGenerator:
    return ScriptedGenerator(lambda *_: "Yes", steps=lambda _: (Step("Yes", -0.1, (("No", -2.0),)),))


def pieces(*names: str) -> list[Piece]:
    return [Piece("body", name, "") for name in names]


def num_asked(generator: ScriptedGenerator) -> int:
    return sum(len(prompts) for prompts, _ in generator.calls)


def judge(scorer, folder, **budget) -> Judge:
    purse = Purse.open(folder / "purse", Budget(**budget), time.time() + 60)
    return Judge("query", scorer, purse, Trace(), 0)


def test_the_first_score_of_a_key_stays(tmp_path):
    memo = ScoreMemo(tmp_path / "scores")

    memo.add({"a": SCORE}, "one")
    kept = memo.add({"a": replace(SCORE, value=9.0), "b": SCORE}, "two")

    assert {key: (each.score.value, each.payer) for key, each in kept.items()} == {
        "a": (1.5, "one"),
        "b": (1.5, "two"),
    }
    assert memo.get(["a", "b", "c"]) == kept
    assert len(memo) == 2


def test_many_scores_are_found_again(tmp_path):
    memo, keys = ScoreMemo(tmp_path / "scores"), [str(n) for n in range(1500)]

    memo.add(dict.fromkeys(keys, SCORE), "one")

    assert set(memo.get(keys)) == set(keys)


def test_no_answer_is_kept_as_one(tmp_path):
    memo = ScoreMemo(tmp_path / "scores")
    memo.add({"a": Score(None, None, 30, 3, 3)}, "one")
    assert memo.get(["a"])["a"].score.value is None


def test_of_two_processes_that_race_one_pays_for_each_score(tmp_path):
    memo = ScoreMemo(tmp_path / "scores")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as processes, context.Manager() as manager:
        gate = manager.Barrier(2)
        races = [processes.submit(race, memo, payer, gate) for payer in ("one", "two")]
        one, two = (each.result() for each in races)

    assert one == two
    assert len(memo) == len(one) == 200


def race(memo: ScoreMemo, payer: str, gate) -> dict[str, str]:
    """Add 200 scores as another process does; return who has paid for each."""
    found = {}
    for number in range(200):
        if number % 50 == 0:
            gate.wait(30)
        kept = memo.add({str(number): SCORE}, payer)
        found |= {key: each.payer for key, each in kept.items()}
    return found


@pytest.mark.parametrize("damage", [b"no database at all" * 500, None])
def test_a_damaged_file_is_begun_anew(tmp_path, damage):
    memo = ScoreMemo(tmp_path / "scores")
    memo.add({str(n): SCORE for n in range(500)}, "one")
    whole = memo.path.read_bytes()
    memo.path.write_bytes(damage or whole[: len(whole) // 3])

    assert memo.get(["1"]) == {}
    memo.add({"1": SCORE}, "two")
    assert memo.get(["1"])["1"].payer == "two"


def test_the_file_stays_within_its_size_and_the_oldest_scores_go_first(tmp_path):
    memo = ScoreMemo(tmp_path / "scores", max_bytes=100_000)
    for number in range(60):
        keys = [sha256(f"{number} {i}".encode()).hexdigest() for i in range(50)]
        assert set(memo.add(dict.fromkeys(keys, SCORE), "one")) == set(keys)
        if number == 0:
            first = keys

    assert memo.path.stat().st_size < 120_000
    assert set(memo.get(keys)) == set(keys)
    assert memo.get(first) == {}
    assert len(memo) > 200


def test_scores_of_before_there_was_a_bound_are_kept(tmp_path):
    memo = ScoreMemo(tmp_path / "scores")
    with sqlite3.connect(memo.path) as old:
        old.execute(
            "CREATE TABLE scores (key TEXT PRIMARY KEY, value REAL, raw REAL, num_prompt_tokens INTEGER NOT"
            " NULL, num_completion_tokens INTEGER NOT NULL, num_calls INTEGER NOT NULL, payer TEXT NOT NULL)"
            " WITHOUT ROWID"
        )
        old.execute("INSERT INTO scores VALUES ('a', 1.5, 2.5, 30, 3, 3, 'one')")
    old.close()

    memo.add({"b": SCORE}, "two")

    assert {key: (each.score, each.payer) for key, each in memo.get(["a", "b"]).items()} == {
        "a": (SCORE, "one"),
        "b": (SCORE, "two"),
    }


def test_a_file_that_another_program_holds_is_no_damage(tmp_path):
    memo = ScoreMemo(tmp_path / "scores")
    memo.add({"a": SCORE}, "one")
    with sqlite3.connect(memo.path) as other:
        other.execute("BEGIN IMMEDIATE")
        assert set(memo.get(["a"])) == {"a"}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "another"},
        {"kind": "chunk"},
        {"recurrence_depth": 2},
        {"calibration": "none"},
        {"prompt_version": 2},
    ],
)
def test_what_a_score_depends_on_is_in_its_key(change):
    key = score_key("text", "query", **ASKED)

    assert score_key("text", "query", **ASKED) == key
    assert score_key("text", "query", **{**ASKED, **change}) != key
    assert score_key("text", "another query", **ASKED) != key
    assert score_key("another text", "query", **ASKED) != key


async def test_only_what_is_missing_is_asked(tmp_path):
    memo, generator = ScoreMemo(tmp_path / "scores"), engine()
    first = await scorer(memo).scores("query", pieces("a", "b"))

    again = await scorer(memo, generator).scores("query", pieces("c", "a", "b"))

    assert num_asked(generator) == 1
    assert [score.is_cached for score in again] == [False, True, True]
    assert [score.value for score in again[1:]] == [score.value for score in first]
    assert await scorer(memo).count_tokens("query", pieces("a", "b")) == 0


async def test_another_depth_and_another_query_are_asked_anew(tmp_path):
    memo = ScoreMemo(tmp_path / "scores")
    await scorer(memo).scores("query", pieces("a"))

    [deeper] = await scorer(memo, recurrence_depth=2).scores("query", pieces("a"))
    [other] = await scorer(memo).scores("another query", pieces("a"))

    assert not deeper.is_cached
    assert not other.is_cached


async def test_a_request_that_is_repeated_gets_what_it_has_paid_for_with_its_cost(tmp_path):
    """A worker that dies after it has kept its scores has told nobody of them."""
    memo, generator = ScoreMemo(tmp_path / "scores"), engine()
    paid = await scorer(memo).scores_for("chunk", "query", pieces("a", "b"))

    repeated = await scorer(memo, generator).scores_for("chunk", "query", pieces("a", "b"))

    assert repeated == paid
    assert num_asked(generator) == 0


async def test_a_piece_that_stands_twice_in_a_request_is_paid_for_once(tmp_path):
    generator = engine()
    found = await scorer(ScoreMemo(tmp_path / "scores"), generator).scores("query", pieces("a", "a"))

    assert num_asked(generator) == sum(score.num_calls for score in found) == 1


async def test_cached_calls_are_counted_and_take_nothing_from_the_purse(tmp_path):
    memo = ScoreMemo(tmp_path / "scores")
    await scorer(memo).scores("query", pieces("a", "b"))
    judging = judge(scorer(memo), tmp_path)

    await judging.judge(pieces("a", "b", "c"))

    assert (judging.spend.num_calls, judging.spend.num_cached_calls) == (1, 2)
    assert judging.purse.spent().num_calls == 1
    assert judging.purse.spent().num_prompt_tokens == judging.spend.num_prompt_tokens
    assert [event.is_cached for event in judging.trace.events] == [True, True, False]
    assert judging.coverage == 1


async def test_a_lost_piece_costs_coverage_and_is_told_with_its_worker(tmp_path):
    class Losing(MemoScorer):
        async def scores(self, query, pieces):
            kept = await super().scores(query, pieces[1:])
            return [Score(None, None, 0, 0, 0, worker="w7", error="w7 died"), *kept]

    inner = YesNoScorer(engine(), Texts())
    judging = judge(Losing(inner, ScoreMemo(tmp_path / "scores")), tmp_path)

    found = await judging.judge(pieces("a", "b"))

    assert set(found) == {"b"}
    assert (judging.coverage, judging.spend.num_calls) == (0.5, 1)
    assert [(event.kind, event.worker) for event in judging.trace.events] == [("error", "w7"), ("score", "")]
    assert "w7 died" in judging.trace.events[0].title


async def test_an_engine_that_cannot_even_count_costs_coverage(tmp_path):
    class Mute(ScriptedGenerator):
        async def count_tokens(self, prompts):
            raise GeneratorError("gone")

    judging = judge(scorer(ScoreMemo(tmp_path / "scores"), Mute(["Yes"])), tmp_path)

    assert await judging.judge(pieces("a")) == {}
    assert "gone" in judging.trace.events[0].title
