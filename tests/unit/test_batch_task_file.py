"""What a task file may hold, and that a bad line of any kind is one bad instance and no more."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from pipeline.batch.task_file import MAX_LINE_BYTES, MAX_STATEMENT_CHARS, TaskFile
from pipeline.core import Limits, Task
from pipeline.exceptions import InputError
from tests.unit.batches import instance, write_tasks

CASES = Path(__file__).parents[1] / "benchmarks/real_cases/cases.jsonl"
SWE_BENCH = {
    "instance_id": "django__django-11099",
    "repo": "django/django",
    "base_commit": "d26b2424437dabeeca94d7900b37d2df4410da0c",
    "problem_statement": "UsernameValidator allows trailing newline",
    "FAIL_TO_PASS": '["tests/auth/test_validators.py::test_a", "tests/auth/test_validators.py::test_b"]',
    "PASS_TO_PASS": '["tests/auth/test_validators.py::test_c"]',
    "test_patch": "diff --git a/t b/t\n",
    "version": "3.0",
    "hints_text": "",
    "environment_setup_commit": "419a78300f7cd27611196e1e464d50fd0385ff27",
}


def scanned(tmp_path: Path, *lines: object, limits: Limits | None = None):
    file = TaskFile(write_tasks(tmp_path / "tasks.jsonl", lines), limits or Limits())
    return file, file.scan()


def only_task(tmp_path: Path, line: object, **options) -> Task:
    file, [entry] = scanned(tmp_path, line, **options)
    assert entry.error == ""
    return file.instance(entry).task


def test_a_swe_bench_line_becomes_a_task_without_loss(tmp_path):
    task = only_task(tmp_path, SWE_BENCH)
    assert task.task_id == SWE_BENCH["instance_id"]
    assert task.repo == "https://github.com/django/django.git"
    assert (task.base_commit, task.statement) == (SWE_BENCH["base_commit"], SWE_BENCH["problem_statement"])
    assert task.fail_to_pass == tuple(json.loads(SWE_BENCH["FAIL_TO_PASS"]))
    assert task.pass_to_pass == tuple(json.loads(SWE_BENCH["PASS_TO_PASS"]))
    assert task.test_patch == SWE_BENCH["test_patch"]
    unknown = ("version", "hints_text", "environment_setup_commit")
    assert task.metadata == {name: SWE_BENCH[name] for name in unknown}


def test_lists_may_be_lists_and_two_fields_more_are_read(tmp_path):
    fields = {"FAIL_TO_PASS": ["a.py::b"], "test_command": "python check.py", "kind": "implement"}
    task = only_task(tmp_path, instance("a", **fields))
    assert (task.fail_to_pass, task.test_command, task.kind) == (("a.py::b",), "python check.py", "implement")
    assert task.repo == str(tmp_path / "a")


@pytest.mark.parametrize(
    ("repo", "expected"),
    [
        ("sub/repo", "https://github.com/sub/repo.git"),  # no such folder
        ("here/repo", "{folder}/here/repo"),  # a folder of that name wins
        ("./sub/repo", "{folder}/sub/repo"),
        ("../repo", "{parent}/repo"),
        ("/srv/repo", "/srv/repo"),
        ("https://example.org/a.git", "https://example.org/a.git"),
        ("git@example.org:a/b.git", "git@example.org:a/b.git"),
    ],
)
def test_a_repository_is_a_path_beside_the_file_a_url_or_a_github_name(tmp_path, repo, expected):
    (tmp_path / "here/repo").mkdir(parents=True)
    task = only_task(tmp_path, {**instance("a"), "repo": repo})
    assert task.repo == expected.format(folder=tmp_path, parent=tmp_path.parent)


def test_our_own_task_lines_are_read_as_they_are_written(tmp_path):
    lines = CASES.read_text("utf-8").splitlines()
    file, entries = scanned(tmp_path, *lines)
    assert [entry.error for entry in entries] == [""] * len(lines)
    for entry, line in zip(entries, lines, strict=True):
        written = Task.model_validate_json(line)
        read = file.instance(entry).task
        assert read == written.model_copy(update={"repo": str(tmp_path / written.repo)})


def test_unknown_fields_of_our_own_lines_are_kept_in_the_metadata(tmp_path):
    line = {"task_id": "a", "repo": "a", "metadata": {"x": 1}, "difficulty": "hard"}
    assert only_task(tmp_path, line).metadata == {"x": 1, "difficulty": "hard"}


def test_the_settings_limits_hold_but_for_what_a_line_sets_itself(tmp_path):
    line = {"task_id": "a", "repo": "a", "limits": {"num_tokens": 77, "num_candidates": 320}}
    task = only_task(tmp_path, line, limits=Limits(num_tokens=5, num_candidates=9, wall_seconds=3))
    assert task.limits == Limits(num_tokens=77, num_candidates=9, wall_seconds=3)


BAD = {
    "broken JSON": ('{"instance_id": "a", ', "not JSON"),
    "no JSON at all": ("hello", "not JSON"),
    "a list": ("[1, 2]", "a list and no object"),
    "nested without end": ("[" * 100_000, "not JSON"),
    "half a surrogate pair": (
        '{"instance_id": "s", "repo": "r", "problem_statement": "\\ud800"}',
        "not JSON",
    ),
    "no repository": ({"instance_id": "a"}, "repo: Field required"),
    "no id": ({"repo": "a"}, "instance_id: Field required"),
    "an id that leaves the folder": (instance("a") | {"instance_id": "../../etc"}, "cannot name a folder"),
    "an id that is too long": (instance("a") | {"instance_id": "a" * 201}, "cannot name a folder"),
    "an empty id": (instance("a") | {"instance_id": ""}, "cannot name a folder"),
    "an id of ours that leaves the folder": ({"task_id": "a/b", "repo": "a"}, "cannot name a folder"),
    "tests that are no list": (instance("a", FAIL_TO_PASS='{"a": 1}'), "FAIL_TO_PASS"),
    "tests that are no JSON": (instance("a", FAIL_TO_PASS="tests/a.py"), "FAIL_TO_PASS"),
    "a number for a text": (instance("a", problem_statement=3), "problem_statement"),
    "an unknown kind": (instance("a", kind="refactor"), "kind"),
    "a transport that runs programs": (instance("a") | {"repo": "ext::sh -c id"}, "not allowed"),
    "a path that is none": (instance("a") | {"repo": "a\0b"}, "is no path"),
    "a field that stands twice": (
        {"task_id": "a", "repo": "a", "metadata": {"x": 1}, "x": 2},
        "stands twice",
    ),
    "an overlong statement": (instance("a", problem_statement="x" * (MAX_STATEMENT_CHARS + 1)), "1,048,577"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, name):
    line, complaint = BAD[name]
    file, entries = scanned(tmp_path, instance("first"), line, "", instance("last"))
    first, bad, last = entries
    assert bad.error.startswith("line 2 cannot be used: ")
    assert complaint in bad.error
    assert (bad.line, bad.digest, last.line) == (2, "", 4)
    assert [file.instance(entry).task.task_id for entry in (first, last)] == ["first", "last"]


def test_a_line_that_is_not_text_is_bad_alone(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"\xff\xfe\n" + json.dumps(instance("b")).encode())
    bad, good = TaskFile(path, Limits()).scan()
    assert (bad.error != "", good.error, good.instance_id) == (True, "", "b")


def test_of_two_lines_with_one_id_the_first_counts(tmp_path):
    _, [first, second] = scanned(tmp_path, instance("a"), instance("a", problem_statement="other"))
    assert (first.error, second.instance_id) == ("", "line 2")
    assert "its id a is that of line 1" in second.error


def test_fifty_megabytes_of_issue_text_are_refused_and_never_held(tmp_path):
    path = tmp_path / "tasks.jsonl"
    with path.open("w") as stream:
        stream.write('{"instance_id": "huge", "repo": "r", "problem_statement": "')
        for _ in range(50):
            stream.write("x" * (1 << 20))
        stream.write(f'"}}\n{json.dumps(instance("small"))}\n')
    tracemalloc.start()
    try:
        huge, small = TaskFile(path, Limits()).scan()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert huge.instance_id == "huge"
    assert "longer than 16.8 MB" in huge.error
    assert (small.instance_id, small.error) == ("small", "")
    assert peak < 3 * MAX_LINE_BYTES


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_do_no_harm(tmp_path):
    path = tmp_path / "tasks.jsonl"
    lines = [json.dumps(instance(name)).encode() for name in "ab"]
    path.write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\r\n" + lines[1])
    file = TaskFile(path, Limits())
    assert [(entry.line, file.instance(entry).task.task_id) for entry in file.scan()] == [(1, "a"), (3, "b")]


def test_a_file_that_changes_under_way_is_noticed(tmp_path):
    file, [entry] = scanned(tmp_path, instance("a"))
    write_tasks(file.path, [instance("a", problem_statement="now something else")])
    with pytest.raises(InputError, match="was changed while"):
        file.instance(entry)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_a_task_is_refused(tmp_path, content):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no task"):
        TaskFile(path, Limits()).scan()


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the task file"):
        TaskFile(tmp_path / "none.jsonl", Limits()).scan()
