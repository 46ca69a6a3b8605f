"""Past runs: their ids, and what `runs list` and `runs show` tell of them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.run_store import create_run, find_run, load_run, new_run_id, run_folders, working_on
from pipeline.exceptions import EnvironmentBrokenError, InputError
from tests.unit.records import DIFF, bare_record, hostile_record, solved_record


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path))
    return tmp_path


def keep(run_id: str, record=None):
    folder = create_run(run_id)
    folder.save((record or solved_record()).model_copy(update={"run_id": run_id}))
    return folder


def run(*args: str):
    return CliRunner().invoke(app, ["runs", *args])


def test_run_ids_sort_by_time_and_two_of_one_second_differ():
    early, late = datetime(2026, 11, 21, 9, tzinfo=UTC), datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert new_run_id(early) < new_run_id(late)
    assert len({new_run_id(early) for _ in range(20)}) > 1
    assert len(new_run_id()) == 17


@pytest.mark.parametrize("run_id", ["../escape", "a/b", "-x", ".hidden", "x" * 101, "a b"])
def test_a_run_id_that_is_no_folder_name_is_refused(run_id):
    with pytest.raises(InputError, match="cannot be a run id"):
        create_run(run_id)


def test_a_run_id_that_is_taken_is_refused_and_says_how_to_go_on():
    create_run("mine")
    with pytest.raises(InputError) as caught:
        create_run("mine")
    assert caught.value.hint == "continue it: loopwright fix --resume mine"


def test_a_home_that_cannot_be_written_is_a_broken_environment(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "file"))
    with pytest.raises(EnvironmentBrokenError):
        create_run("mine")


def test_a_run_is_found_by_its_id_by_the_beginning_of_it_and_as_the_last():
    for run_id in ("261121-143005-aaa", "261121-143005-bbb", "261122-080000-ccc"):
        keep(run_id)
    assert find_run("261121-143005-aaa").run_id == "261121-143005-aaa"
    assert find_run("261122").run_id == find_run("last").run_id == "261122-080000-ccc"
    with pytest.raises(InputError, match="2 runs begin with '261121'"):
        find_run("261121")
    with pytest.raises(InputError, match="there is no run 'none'"):
        find_run("none")


def test_runs_are_listed_newest_first_also_those_with_a_name_of_their_own():
    keep("261121-143005-aaa")
    keep("261122-143005-bbb")
    named = keep("mine")
    moment = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
    os.utime(named.path, (moment, moment))
    assert [folder.run_id for folder in run_folders()] == ["261122-143005-bbb", "mine", "261121-143005-aaa"]


def test_a_run_that_was_killed_is_shown_as_interrupted_and_one_that_goes_on_as_running():
    folder = keep("mine", bare_record("running"))
    assert load_run(folder).status == "interrupted"
    with working_on(folder):
        assert load_run(folder).status == "running"


def test_two_processes_never_work_on_one_run():
    folder = create_run("mine")
    with working_on(folder), pytest.raises(InputError, match="being worked on"), working_on(folder):
        pass


def test_list_tells_status_time_tokens_and_size_of_the_patch():
    keep("261121-143005-aaa")
    keep("261121-143006-bbb", bare_record("failed"))
    create_run("261121-143007-ccc")  # killed before it had a record
    done = run("list")
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1][:2] == ["261121-143007-ccc", "unreadable"]
    assert rows[2][:2] == ["261121-143006-bbb", "failed"]
    assert " ".join(rows[3]) == "261121-143005-aaa solved 3 min 34 s 4647 2 lines humanise-natural-size"


def test_list_as_json_is_one_array_and_limit_cuts_it():
    keep("261121-143005-aaa")
    keep("261121-143006-bbb")
    [row] = json.loads(run("list", "--json", "--limit", "1").stdout)
    assert (row["run_id"], row["status"], row["seconds"], row["num_changed_lines"]) == (
        "261121-143006-bbb",
        "solved",
        214.0,
        2,
    )


def test_an_empty_list_leaves_stdout_empty():
    done = run("list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert json.loads(run("list", "--json").stdout) == []


def test_show_tells_the_rounds_and_the_patch():
    keep("261121-143005-aaa")
    done = run("show", "261121")
    assert done.exit_code == 0
    for expected in ("r3c02", "resolved, fixed 2/2", "refused: duplicate of r1c01", DIFF.rstrip("\n")):
        assert expected in done.stdout


def test_show_patch_is_the_patch_byte_for_byte():
    keep("261121-143005-aaa")
    assert run("show", "last", "--patch").stdout_bytes == DIFF.encode()


def test_show_json_is_the_whole_trajectory():
    keep("261121-143005-aaa")
    assert len(json.loads(run("show", "last", "--json").stdout)["rounds"]) == 3


def test_show_html_names_the_report_and_writes_it_where_it_is_missing():
    folder = keep("261121-143005-aaa")
    assert run("show", "last", "--html").stdout == f"{folder.report_path}\n"
    assert folder.report_path.read_text().startswith("<!doctype html>")


def test_show_prints_no_control_characters_of_a_hostile_run():
    record = hostile_record()
    folder = create_run("mine")
    task = record.task.model_copy(update={"task_id": "mine"})  # checked at the border, so never hostile
    folder.save(record.model_copy(update={"task": task}))
    done = run("show", "mine")
    assert "{{ 7*7 }}" in done.stdout
    output = done.output
    assert "\x1b" not in output
    assert "\x00" not in output


@pytest.mark.parametrize("args", [("show", "none"), ("show", "last", "--json", "--patch")])
def test_bad_requests_are_bad_input(args):
    keep("261121-143005-aaa")
    assert run(*args).exit_code == 2


def test_the_patch_of_a_run_without_one_is_bad_input():
    keep("261121-143005-aaa", bare_record("unsolved"))
    done = run("show", "last", "--patch")
    assert (done.exit_code, done.stdout) == (2, "")
