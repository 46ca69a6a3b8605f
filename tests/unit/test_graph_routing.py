"""Where the graph goes next depends on verdicts and limits alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.config import Rung
from pipeline.core import Candidate, Completion, Limits, Suspect, Task, Verdict, VerdictKind
from pipeline.graph.routing import after_judge, after_localise, limit_reached
from pipeline.graph.state import Attempt, Progress, dump, load
from pipeline.policy.choice import Choice
from pipeline.runs import CandidateRecord, RoundRecord, RunRecord

SUSPECT = Suspect(path="m.py", qualname="f", start_line=1, end_line=2, score=1.0)
LADDER = (Rung(), Rung(), Rung(feedback=True))


def round_of(number: int, *kinds: VerdictKind | None) -> RoundRecord:
    completion = Completion(
        text="x",
        num_prompt_tokens=1,
        num_completion_tokens=100,
        finish_reason="stop",
        recurrence_depth=1,
        seconds=0.0,
    )
    entries = [
        CandidateRecord(
            candidate=Candidate(
                candidate_id=f"r{number}c{i:02d}",
                round=number,
                suspect=SUSPECT,
                sampling_seed=0,
                temperature=0.0,
                recurrence_depth=1,
            ),
            prompt_number=0,
            completion=completion,
            verdict=kind and Verdict(kind=kind),
        )
        for i, kind in enumerate(kinds)
    ]
    return RoundRecord(number=number, rung=Rung(), candidates=entries)


def progress_after(*rounds: RoundRecord, **fields) -> Progress:
    record = RunRecord(
        run_id="r",
        status="running",
        task=Task(task_id="t", repo="."),
        settings={},
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        rounds=list(rounds),
        suspects=[SUSPECT],
    )
    return Progress(record=record, **fields)


FAILED = round_of(1, VerdictKind.UNCHANGED)
ATTEMPTS = {"key": Attempt(rank=2, code="c", error="e")}


@pytest.mark.parametrize(
    ("progress", "node"),
    [
        (progress_after(round_of(1, VerdictKind.UNCHANGED, VerdictKind.RESOLVED)), "select"),
        (progress_after(round_of(1, VerdictKind.RESOLVED), limit="num_tokens"), "select"),  # found in time
        (progress_after(FAILED, next_rung=Choice(1, "")), "escalate"),
        (progress_after(round_of(1, None), next_rung=Choice(1, "")), "escalate"),  # all refused
        (progress_after(FAILED, limit="num_tokens", next_rung=Choice(1, "")), "give_up"),
        (progress_after(FAILED, FAILED, attempts=ATTEMPTS, next_rung=Choice(2, "")), "revise"),
        (progress_after(FAILED, FAILED, next_rung=Choice(2, "")), "escalate"),  # nothing to show
        (progress_after(FAILED, FAILED, FAILED, attempts=ATTEMPTS), "give_up"),  # no rung is left
    ],
)
def test_the_way_after_a_round(progress, node):
    assert after_judge(progress, LADDER) == node


def test_without_suspects_nothing_is_drafted():
    progress = progress_after()
    assert after_localise(progress) == "pack"
    progress.record.suspects = []
    assert after_localise(progress) == "give_up"


TWO = progress_after(FAILED, FAILED).record  # 2 candidates, 200 tokens


@pytest.mark.parametrize(
    ("limits", "seconds", "name"),
    [
        ({}, 1.0, ""),
        ({"wall_seconds": 5}, 5.0, "wall_seconds"),
        ({"num_candidates": 2}, 1.0, "num_candidates"),
        ({"num_tokens": 200}, 1.0, "num_tokens"),
        ({"num_rounds": 2}, 1.0, "num_rounds"),
        ({"num_rounds": 3}, 1.0, ""),
    ],
)
def test_the_limit_that_allows_no_further_round(limits, seconds, name):
    assert limit_reached(TWO, Limits(**limits), seconds_used=seconds, num_rungs=3) == name


def test_a_ladder_that_ends_by_itself_is_no_limit():
    assert limit_reached(TWO, Limits(num_rounds=2), seconds_used=1.0, num_rungs=2) == ""


def test_progress_survives_the_checkpoint():
    progress = progress_after(FAILED, attempts=ATTEMPTS, covered={"m.py": [1, 2]}, limit="x")
    assert load(dump(progress)) == progress
