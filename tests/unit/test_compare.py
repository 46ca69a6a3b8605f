"""Two batches are compared on what both judged, in pairs, and differences between them are not hidden."""

from __future__ import annotations

import importlib.util
import json
import os

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.compare import compare, read_batch
from pipeline.exceptions import InputError

if importlib.util.find_spec("scipy") is None and os.environ.get("CI") != "true":
    pytest.skip("scipy is not installed: `make setup` installs it", allow_module_level=True)

SETTINGS = {"model": "m", "planner": {"seed": 0, "top_p": 0.9}}


def row(name, outcome, **more):
    return {"instance_id": name, "outcome": outcome, "num_tokens": 10, "seconds": 2.0, "model": "m"} | more


def batch(folder, rows, settings=SETTINGS):
    folder.mkdir()
    (folder / "results.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
    if settings is not None:
        (folder / "batch.json").write_text(json.dumps({"settings": settings}))
    return folder


def pair(tmp_path, first, second, **settings):
    return [read_batch(batch(tmp_path / n, rows, **settings)) for n, rows in (("a", first), ("b", second))]


def test_gained_and_lost_tasks_are_named_and_tested(tmp_path):
    first = [row(f"t{i}", "solved" if i < 3 else "unsolved") for i in range(10)]
    second = [row(f"t{i}", "solved" if 2 <= i < 9 else "unsolved", num_tokens=15) for i in range(10)]
    found = compare(*pair(tmp_path, first, second))
    assert found.gained == tuple(f"t{i}" for i in range(3, 9))
    assert found.lost == ("t0", "t1")
    assert (found.num_shared, found.num_both, found.num_neither) == (10, 1, 1)
    assert found.p_value == pytest.approx(2 * (1 + 8 + 28) / 256)
    assert found.solved.difference.value == pytest.approx(0.4)
    tokens = found.per_task["num_tokens"].difference
    assert (tokens.value, tokens.low, tokens.high) == (5.0, 5.0, 5.0)
    assert [estimate.value for estimate in found.per_solved["num_tokens"]] == [100 / 3, 150 / 7]
    assert found.warnings == ()


def test_a_cost_that_older_rows_do_not_say_is_not_compared(tmp_path):
    old, new = row("t", "solved"), row("t", "solved", num_prompt_tokens=700)
    found = compare(*pair(tmp_path, [old], [new])).per_task["num_prompt_tokens"]
    assert (found.second.value, found.first.shown(), found.difference.shown()) == (700, *["- [-, -]"] * 2)


def test_infra_and_invalid_instances_are_left_out_of_both_sides_and_counted(tmp_path):
    first = [row("x", "infra"), row("y", "solved"), row("z", "invalid"), row("only", "solved")]
    second = [row("x", "solved"), row("y", "unsolved"), row("z", "invalid"), row("new", "unsolved")]
    found = compare(*pair(tmp_path, first, second))
    assert (found.num_shared, found.lost, found.gained) == (1, ("y",), ())
    assert (found.excluded_first, found.excluded_second) == ({"infra": 1, "invalid": 1}, {"invalid": 1})
    assert (found.only_first, found.only_second) == (("only",), ("new",))


def test_other_settings_models_and_tasks_are_warned_of(tmp_path):
    a = batch(tmp_path / "a", [row("x", "solved", digest="1")])
    b = batch(
        tmp_path / "b", [row("x", "solved", digest="2", model="n")], {"model": "n", "planner": {"seed": 1}}
    )
    settings, models, tasks = compare(read_batch(a), read_batch(b)).warnings
    assert "model, planner.seed, planner.top_p" in settings
    assert "m against n" in models
    assert tasks.startswith("1 instances")


def test_the_later_row_of_an_instance_counts_and_a_torn_last_line_does_not(tmp_path):
    folder = batch(tmp_path / "a", [row("x", "infra"), row("x", "solved")], settings=None)
    with (folder / "results.jsonl").open("a") as stream:
        stream.write('{"instance_id": "y", "outc')
    found = read_batch(folder)
    assert {name: result.outcome for name, result in found.results.items()} == {"x": "solved"}
    assert "not known" in compare(found, found).warnings[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no results"),
        ("", "no result yet"),
        ("{}\n{}\n", "line 1 is no result: instance_id"),
        ('{"instance_id": "x", "outcome": "won"}\n\n', "line 1 is no result: outcome"),
        ("not json\n\n", "line 1"),
    ],
)
def test_what_is_no_batch_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "results.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        read_batch(tmp_path)


def test_batches_without_a_common_judged_instance_are_refused(tmp_path):
    with pytest.raises(InputError, match="no instance that both judged"):
        compare(*pair(tmp_path, [row("x", "solved")], [row("x", "infra")]))


def test_the_command_prints_a_table_for_people_and_json_for_scripts(tmp_path):
    first = batch(tmp_path / "a", [row("x", "unsolved"), row("y", "unsolved")])
    second = batch(tmp_path / "b", [row("x", "solved"), row("y", "unsolved")])
    shown = CliRunner().invoke(app, ["compare", str(first), str(second)])
    assert shown.exit_code == 0
    assert "solved, %" in shown.stdout
    assert "0.0 [0.0, 0.0]" in shown.stdout
    assert "solved by B alone (1):\n  x" in shown.stdout
    found = json.loads(CliRunner().invoke(app, ["compare", str(first), str(second), "--json"]).stdout)
    assert (found["gained"], found["p_value"]) == (["x"], 1.0)
    assert found["per_solved"]["num_tokens"][0]["value"] is None  # nothing solved: no finite number


def test_the_command_says_what_is_wrong_with_a_folder(tmp_path):
    result = CliRunner().invoke(app, ["compare", str(tmp_path), str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no results of a batch" in result.stderr
