"""An ablation is a batch per variant; its numbers are those that one can count by hand."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.bench.measure import figures
from pipeline.bench.run import Bench
from pipeline.bench.score import Score
from pipeline.bench.variants import Plan, Variant, read_plan
from pipeline.cli.app import app
from pipeline.cli.bench_run import planned, selected
from pipeline.compare import read_batch
from pipeline.config import Settings
from pipeline.core import Task
from pipeline.exceptions import InputError
from tests.unit.test_bench_sources import archive, library, task

if importlib.util.find_spec("scipy") is None and os.environ.get("CI") != "true":
    pytest.skip("scipy is not installed: `make setup` installs it", allow_module_level=True)

FAULT = "code.py::f"


def row(name, outcome="solved", **more):
    return {"instance_id": name, "outcome": outcome, "num_tokens": 100, "seconds": 4.0, "model": "m"} | more


def batch(folder: Path, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
    return read_batch(folder)


def tasks(tmp_path: Path, num: int = 3) -> list[Task]:
    source = library(tmp_path / "work").resolve(str(archive(tmp_path)))
    return [task(source).model_copy(update={"task_id": f"t{i}"}) for i in range(num)]


def test_one_thing_is_changed_at_a_time_or_every_combination_is_tried():
    axes = {"depth": [1, 2, 4], "feedback": [False, True], "model": ["a/b c"]}
    assert list(Plan(axes=axes).variants()) == ["baseline", "depth-2", "depth-4", "feedback-on"]
    grid = Plan(axes=axes, design="grid").variants()
    assert len(grid) == 6
    assert grid["depth-2_feedback-on"] == Variant(depth=2, feedback=True, model="a/b c")
    assert list(Plan().variants()) == ["baseline"]


def test_variants_that_change_several_things_are_given_by_name():
    plan = Plan(axes={"depth": [2, 4]}, more={"generic": {"strategy": "definition", "suspects": 1}})
    found = plan.variants()
    assert list(found) == ["baseline", "depth-4", "generic"]
    assert found["generic"] == Variant(depth=2, strategy="definition", suspects=1)


@pytest.mark.parametrize(
    "axes", [{"deep": [1]}, {"depth": ["much"]}, {"depth": [0]}, {"depth": []}, {"strategy": ["guess"]}]
)
def test_an_axis_that_there_is_not_is_refused(axes):
    with pytest.raises(InputError, match="axis"):
        Plan(axes=axes).variants()


def test_every_variant_is_settings_that_a_batch_takes_and_drafts_as_many():
    axes = {
        "strategy": ["line", "definition"],
        "depth": [1, 4],
        "feedback": [False, True],
        "context": ["narrow", "wide"],
        "localisation": ["own", "oracle"],
        "candidates": [31],
    }
    for variant in Plan(axes=axes, design="grid").variants().values():
        settings = Settings(**variant.settings({"limits": {"num_tokens": 7}}, max_depth=4))
        ladder = settings.planner.ladder
        assert sum(rung.num_candidates for rung in ladder) == 31 == settings.limits.num_candidates
        assert [rung.feedback for rung in ladder] == ([False, True] if variant.feedback else [False])
        assert {rung.recurrence_depth for rung in ladder} == {variant.depth}
        assert (settings.limits.num_tokens, settings.limits.num_rounds) == (7, len(ladder))


def test_a_plan_is_read_from_a_file_and_flags_are_put_over_it(tmp_path):
    file, config = tmp_path / "plan.yaml", tmp_path / "config.yaml"
    file.write_text(
        "design: grid\nmore: {x: {seed: 1}}\naxes: {depth: [1, 2], model: x}\n"
        "settings: {limits: {num_tokens: 5}}\n"
    )
    config.write_text("limits: {wall_seconds: 9}\n")
    plan = planned(file, ["depth=2,4", "feedback=false,true"], config, is_grid=False)
    assert (plan.design, plan.axes) == ("grid", {"depth": [2, 4], "model": ["x"], "feedback": [False, True]})
    assert plan.settings == {"limits": {"num_tokens": 5, "wall_seconds": 9}}
    assert plan.more == {"x": {"seed": 1}}
    with pytest.raises(InputError, match="--axis takes"):
        planned(None, ["depth"], None, is_grid=False)
    file.write_text("axis: {depth: 1}\n")
    with pytest.raises(InputError, match="axis"):
        read_plan(file)


def test_figures_are_what_one_counts_by_hand(tmp_path):
    made = tasks(tmp_path, 5)
    found = figures(
        batch(
            tmp_path / "b",
            [
                row("t0", solved_at=0, suspects=[FAULT]),
                row("t1", solved_at=3, suspects=["a::b", FAULT], num_tokens=300),
                row("t2", "unsolved", suspects=["a::b", "a::c", "a::d", FAULT]),
                row("t3", "infra"),
            ],
        ),
        made,
        has_own_search=True,
    )
    assert (found.num_tasks, found.num_solved, found.excluded) == (3, 2, {"infra": 1, "missing": 1})
    curve = {k: round(3 * estimate.value) for k, estimate in found.solved_at.items()}
    assert curve == {1: 1, 2: 1, 4: 2, 8: 2, 16: 2, 32: 2}
    assert {k: round(3 * e.value) for k, e in found.recall_at.items()} == {1: 1, 3: 2, 5: 3, 10: 3}
    assert found.per_solved["num_tokens"].value == 500 / 2
    assert found.per_task["seconds"].value == 4.0
    assert found.by_group["split dev"].num == 3
    assert found.by_group["repository lib"].value == pytest.approx(2 / 3)


def test_a_task_is_solved_within_the_tokens_of_the_drafts_up_to_its_winner(tmp_path):
    rows = [
        row("t0", solved_at=0, tokens_at=250),
        row("t1", solved_at=3, tokens_at=1001, num_tokens=9000),
        row("t2", "unsolved"),
    ]
    found = figures(batch(tmp_path / "b", rows), tasks(tmp_path), has_own_search=False)
    curve = {num: round(3 * estimate.value) for num, estimate in found.solved_within.items()}
    assert curve == {50: 0, 100: 0, 250: 1, 500: 1, 1000: 1, 2000: 2, 4000: 2, 8000: 2}


def test_rows_of_a_time_that_did_not_count_these_tokens_have_no_such_numbers(tmp_path):
    rows = [row("t0", solved_at=0), row("t1", solved_at=1, tokens_at=9, num_prompt_tokens=7)]
    found = figures(batch(tmp_path / "b", rows), tasks(tmp_path, 2), has_own_search=False)
    assert found.solved_within == {}
    assert found.per_solved["num_prompt_tokens"].shown() == "- [-, -]"
    assert found.per_solved["num_tokens"].value == 100


def test_a_bug_of_several_functions_is_found_where_all_of_them_are(tmp_path):
    [made] = tasks(tmp_path, 1)
    gold = [*made.metadata["gold"], {"function": "code.py::g", "lines": [9, 9]}]
    made = made.model_copy(update={"metadata": {**made.metadata, "gold": gold}})
    for suspects, rank in (
        ([FAULT, "code.py::g"], 3),
        ([FAULT, "a::b", "c::d", "code.py::g"], 5),
        ([FAULT], 99),
    ):
        found = figures(
            batch(tmp_path / "b", [row("t0", suspects=suspects, solved_at=0)]), [made], has_own_search=True
        )
        assert [k for k, e in found.recall_at.items() if e.value] == [k for k in (1, 3, 5, 10) if k >= rank]


def unasked(*_):
    raise AssertionError("no patch was to be judged again")


def bench(tmp_path: Path, run_batch, made, score=unasked, **axes) -> Bench:
    return Bench(
        tasks=made,
        plan=Plan(axes=axes),
        out=tmp_path / "out",
        library=library(tmp_path / "work"),
        run_batch=run_batch,
        score=score,
        conditions={"machine": "a table"},
        say=lambda _: None,
    )


def test_variants_are_run_and_reported_beside_the_baseline_and_no_run_sees_the_answer(tmp_path):
    seen: dict[str, tuple[str, dict]] = {}

    def run_batch(path: Path, folder: Path, settings: Path) -> None:
        seen[folder.name] = path.read_text(), yaml.safe_load(settings.read_text())
        names = [json.loads(line)["task_id"] for line in path.read_text().splitlines()]
        is_better = folder.name == "localisation-oracle"
        batch(
            folder,
            [
                row(n, "solved" if is_better or n == "t0" else "unsolved", solved_at=1, tokens_at=600)
                for n in names
            ],
        )

    made = tasks(tmp_path)
    measured = bench(tmp_path, run_batch, made, localisation=["own", "oracle"]).run()
    assert measured["localisation-oracle"].against.num_gained == 2
    assert math.isclose(measured["localisation-oracle"].against.solved.value, 2 / 3)
    for name, (text, _) in seen.items():
        lines = [json.loads(line) for line in text.splitlines()]
        assert all("metadata" not in line for line in lines)
        assert all("<=" not in line and "comparison" not in line for line in text.splitlines())
        assert [line.get("functions") for line in lines] == [[FAULT] if "oracle" in name else None] * 3
        assert all((Path(line["repo"]) / ".git").is_dir() for line in lines)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| variant | @50 | @100 | @250 | @500 |" in report
    assert "- machine: a table" in report
    assert "| `localisation-oracle` | 3 | 100.0 [100.0, 100.0] | +66.7 [" in report
    assert json.loads((tmp_path / "out" / "report.json").read_text())["variants"]["baseline"]["figures"]


def test_patches_of_a_search_that_saw_half_of_the_tests_are_judged_with_all(tmp_path):
    given: dict[str, list[dict]] = {}
    judged: dict[str, tuple[str, ...]] = {}

    def run_batch(path: Path, folder: Path, _settings: Path) -> None:
        given[folder.name] = [json.loads(line) for line in path.read_text().splitlines()]
        outcomes = {"t0": "solved", "t1": "solved", "t2": "solved", "t3": "unsolved"}
        batch(folder, [row(name, outcome) for name, outcome in outcomes.items()])
        patches = [{"instance_id": name, "model_patch": f"patch of {name}"} for name in outcomes]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in patches))

    def score(checked, patches, settings):
        assert settings.is_file()
        judged.update({task.task_id: task.fail_to_pass for task in checked})
        return [
            Score(instance_id=task.task_id, resolved=patches[task.task_id] == "patch of t0", verdict="x")
            for task in checked
        ]

    two = ("t.py::a", "t.py::b")
    made = [
        task.model_copy(update={"fail_to_pass": two if task.task_id != "t2" else two[:1]})
        for task in tasks(tmp_path, 4)
    ]
    measured = bench(tmp_path, run_batch, made, score, tests=["all", "half"]).run()
    assert [len(line["fail_to_pass"]) for line in given["baseline"]] == [2, 2, 1, 2]
    assert [len(line["fail_to_pass"]) for line in given["tests-half"]] == [1, 1, 1, 1]
    assert judged == {"t0": two, "t1": two}  # solved, and something was held back
    found = measured["tests-half"].over_fit
    assert (found.num_solved, found.num_checked, found.num_over_fit, found.rate.value) == (3, 2, 1, 0.5)
    assert measured["baseline"].over_fit is None
    out = tmp_path / "out"
    assert "| `tests-half` | 3 | 2 | 1 | 50.0 [" in (out / "report.md").read_text()
    values = json.loads((out / "report.json").read_text())["variants"]
    assert values["tests-half"]["over_fit"]["num_over_fit"] == 1
    assert len((out / "variants" / "tests-half.scores.jsonl").read_text().splitlines()) == 2


def test_a_batch_that_left_tasks_out_is_no_result(tmp_path):
    with pytest.raises(InputError, match="1 tasks of baseline have no outcome, such as t2"):
        bench(tmp_path, lambda _t, folder, _s: batch(folder, [row("t0"), row("t1")]), tasks(tmp_path)).run()


def test_the_held_out_part_is_run_only_when_it_is_asked_for(tmp_path):
    made = tasks(tmp_path, 2)
    made[1] = made[1].model_copy(update={"metadata": {**made[1].metadata, "split": "held_out"}})
    assert [t.task_id for t in selected(made, "dev")] == ["t0"]
    assert [t.task_id for t in selected(made, "held_out")] == ["t1"]
    assert len(selected(made, "all")) == 2
    with pytest.raises(InputError, match="no task of the part held_out") as caught:
        selected(made[:1], "held_out")
    assert "1 dev" in caught.value.hint


def test_plots_are_drawn_or_the_missing_package_is_named(tmp_path):
    rows = [row("t0", solved_at=0, tokens_at=90, suspects=[FAULT]), row("t1", "unsolved")]
    found = batch(tmp_path / "b", rows)
    made = tasks(tmp_path, 2)
    measured = bench(
        tmp_path, lambda _t, folder, _s: batch(folder, [r.model_dump() for r in found.results.values()]), made
    ).run()
    from pipeline.bench.plots import write_plots
    from pipeline.exceptions import EnvironmentBrokenError

    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(EnvironmentBrokenError, match="matplotlib") as caught:
            write_plots(measured, tmp_path)
        assert "--no-plots" in caught.value.hint
        return
    paths = write_plots(measured, tmp_path)
    assert [path.name for path in paths] == ["solved.png", "within.png", "recall.png", "cost.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_operators_are_listed():
    shown = CliRunner().invoke(app, ["bench", "operators"])
    assert shown.exit_code == 0
    assert "comparison-boundary" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "no.jsonl", "--out", "o"], "cannot read the task file no.jsonl"),
        (["run", "no.jsonl", "--out", "o", "--no-plots"], "cannot read the task file no.jsonl"),
        (["make", "no/such/folder", "--out", "o.jsonl"], "there is no no/such/folder"),
        (["make", "requests", "no", "--out", "o.jsonl"], "requests==1.0"),
    ],
)
def test_what_is_not_there_is_told(tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
