"""What a user types after `fix`, and what becomes of it."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.cli.inputs import Flags, make_task, read_issue, resolve_settings
from pipeline.config import Settings
from pipeline.exceptions import InputError


@pytest.fixture
def repo(tmp_path):
    path = tmp_path / "my repo!"
    subprocess.run(["git", "init", "-q", path], check=True)
    return path


def rungs(flags: Flags, name: str) -> list:
    return [getattr(rung, name) for rung in resolve_settings(flags).planner.ladder]


def test_without_flags_the_defaults_hold():
    assert resolve_settings(Flags()) == Settings()


def test_depth_is_the_least_of_every_round_and_max_depth_the_most():
    assert rungs(Flags(), "recurrence_depth") == [0, 0, 0, 0]
    thorough = Flags(config="thorough")
    assert rungs(thorough, "recurrence_depth") == [0, 0, 0, 0, 2, 4]
    assert rungs(replace(thorough, depth=2), "recurrence_depth") == [2, 2, 2, 2, 2, 4]
    assert rungs(replace(thorough, max_depth=2), "recurrence_depth") == [0, 0, 0, 0, 2, 2]
    assert rungs(replace(thorough, depth=2, max_depth=2), "recurrence_depth") == [2, 2, 2, 2, 2, 2]


def test_a_depth_above_the_maximum_is_refused_and_says_how_to_raise_it():
    with pytest.raises(InputError) as caught:
        resolve_settings(Flags(depth=6))
    assert caught.value.hint == "raise it: --max-depth 6"


def test_candidates_is_the_number_of_drafts_in_each_round_and_the_limit_makes_room_for_them():
    settings = resolve_settings(Flags(candidates=200, rounds=2))
    assert [rung.num_candidates for rung in settings.planner.ladder] == [200, 200]
    assert settings.limits.num_candidates == 400


def test_more_rounds_than_rungs_climb_the_last_one_again():
    settings = resolve_settings(Flags(rounds=7))
    assert settings.limits.num_rounds == 7
    assert settings.planner.ladder[3:] == settings.planner.ladder[3:4] * 4


def test_an_endpoint_takes_the_model_name_and_drafts_at_its_own_depth_unless_told_otherwise():
    settings = resolve_settings(Flags(endpoint="http://localhost:8000/v1", model="big"))
    assert (settings.endpoint.model, settings.model) == ("big", Settings().model)
    assert {rung.recurrence_depth for rung in settings.planner.ladder} == {0}
    deep = Flags(config="thorough", endpoint="http://localhost:8000/v1", max_depth=3)
    assert rungs(deep, "recurrence_depth") == [0, 0, 0, 0, 2, 3]


def test_set_reaches_any_setting_and_a_named_flag_wins_over_it():
    flags = Flags(
        assignments=("limits.num_tokens=500", "limits.sandbox.wall_seconds=5", "planner.seed=1"), seed=2
    )
    settings = resolve_settings(flags)
    assert (settings.limits.num_tokens, settings.limits.sandbox.wall_seconds) == (500, 5)
    assert settings.planner.seed == 2


@pytest.mark.parametrize(
    "assignment", ["limits", "=3", "limits.nmu_tokens=3", "planner.seed=[", "sandbox.kind=vm"]
)
def test_a_bad_assignment_is_refused(assignment):
    with pytest.raises(InputError):
        resolve_settings(Flags(assignments=(assignment,)))


def test_a_shipped_configuration_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_settings(Flags(config="fast")).limits.num_rounds == 2
    with pytest.raises(InputError, match="there is no configuration 'slow'"):
        resolve_settings(Flags(config="slow"))


def test_an_issue_is_a_text_a_file_or_stdin(tmp_path, monkeypatch):
    path = tmp_path / "issue.md"
    path.write_bytes("\ufeffIt fails.\n".encode() + b"\xff")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"From stdin.\n")))
    assert read_issue(str(path)) == "It fails.\n\N{REPLACEMENT CHARACTER}"
    assert read_issue("-") == "From stdin."
    assert read_issue("size(1) is wrong") == "size(1) is wrong"
    assert read_issue("word " * 2000).startswith("word word")


@pytest.mark.parametrize("issue", ["issue.md", "./notes/bug", "/nowhere/issue"])
def test_what_looks_like_a_file_and_is_none_is_not_taken_for_the_text(issue):
    with pytest.raises(InputError, match="there is no issue file"):
        read_issue(issue)


def test_an_endless_issue_is_refused(tmp_path):
    path = tmp_path / "issue.txt"
    path.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(InputError, match="longer than 1 MiB"):
        read_issue(str(path))


def test_a_task_names_the_repository_and_carries_the_limits(repo, monkeypatch):
    monkeypatch.chdir(repo)
    settings = resolve_settings(Flags(wall_seconds=60))
    task = make_task(".", settings=settings, tests=("tests/test_a.py::test_b",))
    assert (task.task_id, task.repo) == ("my-repo", str(repo))
    assert task.limits.wall_seconds == 60
    assert task.fail_to_pass == ("tests/test_a.py::test_b",)
    assert task.test_command == "python -m pytest"


def test_a_url_is_kept_as_it_is():
    task = make_task("https://example.org/group/boltons.git", settings=Settings())
    assert (task.task_id, task.repo) == ("boltons", "https://example.org/group/boltons.git")


@pytest.mark.parametrize("name", ["missing", "plain", "file"])
def test_a_path_that_is_no_repository_is_refused_at_once(tmp_path, name):
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        make_task(str(tmp_path / name), settings=Settings())


def test_an_empty_test_command_is_refused(repo):
    with pytest.raises(InputError, match="the test command is empty"):
        make_task(str(repo), settings=Settings(), test_command="  ")
