"""What `fix` refuses before it starts anything, and how it says so."""

from __future__ import annotations

import json
import subprocess

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.ending import Ending, as_object, error_object, tell
from pipeline.cli.errors import ExitCode
from pipeline.cli.execute import resume_folder, start_folder
from pipeline.cli.run_store import create_run
from pipeline.config import Settings
from pipeline.exceptions import InputError, PrepareError
from pipeline.runs import RunFolder
from tests.unit.records import DIFF, bare_record, solved_record


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def repo(tmp_path):
    path = tmp_path / "repo"
    subprocess.run(["git", "init", "-q", path], check=True)
    return path


def fix(*args: object):
    return CliRunner().invoke(app, ["fix", *map(str, args)])


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((), "which repository?"),
        (("/nowhere",), "/nowhere does not exist"),
        (("REPO", "--config", "none.yaml"), "cannot read the configuration none.yaml"),
        (("REPO", "--config", "BROKEN"), "is not valid YAML"),
        (("REPO", "--config", "UNKNOWN"), "unknown key planner.sed"),
        (("REPO", "--set", "limits.num_rounds=0"), "the command line: limits.num_rounds"),
        (("REPO", "--sandbox", "vm"), "sandbox.kind"),
        (("REPO", "--depth", "9"), "above the maximum depth 4"),
        (("REPO", "--issue", "none.md"), "there is no issue file none.md"),
        (("REPO", "--test-command", ""), "the test command is empty"),
        (("REPO", "--model", "gpt-unknown"), "gpt-unknown"),
        (("REPO", "--run-id", "a/b", "--endpoint", "http://localhost:9/v1"), "cannot be a run id"),
        (("https://example.org/a.git", "--apply"), "--apply needs a working tree"),
        (("--resume", "none"), "there is no run 'none'"),
        (("REPO", "--resume", "none"), "--resume takes the task"),
        (("--resume", "none", "--depth", "2"), "--resume takes the task"),
    ],
)
def test_bad_input_ends_with_two_one_line_and_nothing_on_stdout(args, complaint, repo, tmp_path):
    (tmp_path / "broken.yaml").write_text("planner: [")
    (tmp_path / "unknown.yaml").write_text("planner: {sed: 1}")
    names = {"REPO": repo, "BROKEN": tmp_path / "broken.yaml", "UNKNOWN": tmp_path / "unknown.yaml"}
    done = fix(*(names.get(arg, arg) for arg in args))
    assert done.exit_code == ExitCode.INPUT
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("loopwright: ")
    assert complaint in first
    assert len(rest) <= 1


def test_with_json_bad_input_is_an_object_too():
    done = fix("/nowhere", "--json")
    result = json.loads(done.stdout)
    assert (done.exit_code, result["exit_code"], result["status"]) == (2, 2, "failed")
    assert result["error"] == "/nowhere does not exist"
    assert result["hint"]


def test_implement_takes_what_fix_takes_and_says_what_it_cannot_use(repo):
    done = CliRunner().invoke(app, ["implement", str(repo), "--function", "clamp"])
    assert (done.exit_code, done.stdout) == (ExitCode.INPUT, "")
    assert "--function 'clamp' does not say where" in done.stderr
    assert CliRunner().invoke(app, ["implement", str(repo), "--depth", "9"]).exit_code == ExitCode.INPUT
    assert "none.md" in CliRunner().invoke(app, ["implement", str(repo), "--spec", "none.md"]).stderr


def test_a_negative_number_is_bad_usage(repo):
    assert fix(repo, "--rounds", "-1").exit_code == ExitCode.INPUT


def test_show_config_prints_the_settings_that_hold_and_runs_nothing(home):
    done = fix("--show-config", "--depth", "2", "--config", "fast")
    values = yaml.safe_load(done.stdout)
    assert done.exit_code == 0
    assert Settings.model_validate(values).planner.ladder[0].recurrence_depth == 2
    assert values["limits"]["num_rounds"] == 2
    assert not home.exists()


def test_what_a_run_was_started_with_is_read_back_for_its_resumption():
    task, settings = solved_record().task, Settings(model="mine")
    folder = create_run("mine")
    start_folder(folder, task, settings)
    assert resume_folder(folder) == (task, settings)


def test_a_run_without_its_task_cannot_be_resumed():
    with pytest.raises(InputError, match="run mine cannot be resumed"):
        resume_folder(create_run("mine"))


def ending(tmp_path, record, **changes) -> Ending:
    folder = RunFolder(tmp_path / "261121-143005-k3f")
    values = {"folder": folder, "record": record, "error": None, "report": None, "applied": False}
    return Ending(**(values | changes))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("solved", 0),
        ("unsolved", 3),
        ("nothing_to_repair", 5),
        ("failed", 4),
        ("interrupted", 130),
        ("running", 1),
    ],
)
def test_each_status_has_its_exit_code(tmp_path, status, code):
    assert ending(tmp_path, bare_record(status)).exit_code == code


def test_an_error_decides_over_the_status(tmp_path):
    broken = ending(tmp_path, bare_record("failed"), error=PrepareError("no wheel", hint="look"))
    assert broken.exit_code == ExitCode.ENVIRONMENT
    result = as_object(broken)
    assert (result["error"], result["hint"], result["next"]) == (
        "no wheel",
        "look",
        ["loopwright fix --resume 261121-143005-k3f"],
    )


def test_the_end_tells_result_cost_report_and_next_step(tmp_path, capsys):
    tell(ending(tmp_path, solved_record(), report=tmp_path / "report.html"))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "solved: draft r3c02 makes both target tests pass and breaks none",
        "3 min 34 s, 3 rounds, 25 drafts, 4,647 tokens, depth 1, 2, 25 sandbox runs",
        f"report: {tmp_path / 'report.html'}",
        "next: loopwright fix --resume 261121-143005-k3f --apply",
        "next: loopwright runs show 261121-143005-k3f --patch | git apply",
    ]


def test_an_unsolved_run_says_what_was_used_up(tmp_path, capsys):
    record = solved_record(status="unsolved", patch=None)
    limits = record.task.limits.model_copy(update={"num_candidates": 25})
    record = record.model_copy(update={"task": record.task.model_copy(update={"limits": limits})})
    tell(ending(tmp_path, record))
    assert "raise what was used up (drafts)" in capsys.readouterr().err


def test_the_object_of_a_solved_run_names_its_draft_and_its_price(tmp_path):
    result = as_object(ending(tmp_path, solved_record()))
    assert json.loads(json.dumps(result)) == result
    assert (result["patch"], result["paths"]) == (DIFF, ["src/humanise/size.py"])
    assert (result["verdict"]["kind"], result["recurrence_depth"]) == ("resolved", 2)


def test_an_error_without_a_run_is_an_object_of_the_same_shape():
    assert error_object(InputError("no", hint="do")) == {
        "status": "failed",
        "exit_code": 2,
        "error": "no",
        "hint": "do",
    }
