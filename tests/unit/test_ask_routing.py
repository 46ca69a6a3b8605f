"""Which tier a model gets: what its probe says of it, and nothing that an older probe said."""

from __future__ import annotations

import pytest

from pipeline.ask.probe import Capability
from pipeline.ask.probe_tasks import JUDGEMENTS, VERSION, repl_tasks
from pipeline.ask.routing import keep, kept_probes, route


def capability(**changes: object) -> Capability:
    known = {"model": "m", "recurrence_depth": 1, "version": VERSION, "seconds": 1.0}
    return Capability.model_validate(
        {**known, "repl": 0.0, "auc": 0.5, "actions": 0.2, "words": 0.3, **changes}
    )


@pytest.mark.parametrize(
    ("changes", "tier"),
    [
        ({}, "lexical"),
        ({"repl": 0.75}, "recursive"),
        ({"repl": 0.74, "auc": 0.95}, "descent"),
        ({"repl": 0.74, "actions": 0.9, "auc": 0.8}, "actions"),
        ({"actions": 0.9, "words": 0.95}, "lexical"),
        ({"repl": 1.0, "actions": 1.0, "auc": 1.0}, "recursive"),
    ],
)
def test_a_model_gets_the_strongest_tier_that_it_is_fit_for(changes, tier):
    chosen, reason = route(capability(**changes))

    assert chosen == tier
    assert reason


def test_a_model_that_was_not_probed_is_trusted_with_nothing():
    tier, reason = route(None)

    assert tier == "lexical"
    assert "loopwright model probe" in reason


def test_each_depth_of_a_model_is_known_by_itself(tmp_path):
    path = tmp_path / "home" / "probes.json"
    keep(path, capability(repl=0.1))
    keep(path, capability(repl=0.9, recurrence_depth=2))
    keep(path, capability(repl=0.2))

    known = kept_probes(path)

    assert {key: one.repl for key, one in known.items()} == {("m", 1): 0.2, ("m", 2): 0.9}


@pytest.mark.parametrize("text", ["", "{", '{"probes": [{"model": 1}]}', "[]"])
def test_a_damaged_file_of_probes_says_nothing(tmp_path, text):
    (tmp_path / "probes.json").write_text(text)

    assert kept_probes(tmp_path / "probes.json") == {}


def test_what_an_older_probe_said_does_not_count(tmp_path):
    keep(tmp_path / "probes.json", capability(version=VERSION - 1))

    assert kept_probes(tmp_path / "probes.json") == {}


def test_no_answer_of_the_probe_can_be_guessed_from_its_question():
    tasks = repl_tasks()

    assert len(tasks) == 12
    assert len({task.question for task in tasks}) == 12
    assert all(task.answer not in task.question for task in tasks)
    assert tasks == repl_tasks()


def test_no_function_of_the_probe_is_named_by_its_question():
    for one in JUDGEMENTS:
        assert one.right.rpartition("::")[2] not in one.question
