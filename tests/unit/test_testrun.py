"""The tests are asked for in full, read as untrusted text, and no candidate can speak for them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import Outcome, PreparedEnvironment, SandboxLimits, SandboxResult, TestStatus
from pipeline.exceptions import InputError, PrepareError
from pipeline.snapshot import Snapshot
from pipeline.testrun import (
    build_request,
    explain_no_start,
    hung_test,
    is_trusted,
    missing_module,
    parse_test_command,
    read_report,
    trusted_layer,
)
from tests.unit.junit import account, pytest_result

ENVIRONMENT = PreparedEnvironment(environment_id="e", python="/env/bin/python", mounts=())
PYTEST = parse_test_command("pytest")
PATHS = ("pkg/mod.py", "tests/test_a.py", "tests/base.py", "tests/sub/test_b.py", "README.rst")


def argv(command: str, **options) -> tuple[str, ...]:
    request = build_request(
        parse_test_command(command),
        environment=ENVIRONMENT,
        layers=(),
        limits=SandboxLimits(),
        run_id="r",
        paths=PATHS,
        **options,
    )
    return request.argv


@pytest.mark.parametrize(
    ("text", "runner", "arguments"),
    [
        ("pytest", "pytest", ()),
        ("pytest -q 'tests/a b'", "pytest", ("-q", "tests/a b")),
        ("python -m pytest -k 'x and y'", "pytest", ("-k", "x and y")),
        ("python3.11 -m pytest", "pytest", ()),
        ("/usr/bin/python3 -m pytest x", "pytest", ("x",)),
        ("A=1 pytest", "pytest", ()),
        ("python -m unittest -v", "other", ("python", "-m", "unittest", "-v")),
        ("make test", "other", ("make", "test")),
    ],
)
def test_a_test_command_is_recognised(text, runner, arguments):
    command = parse_test_command(text)
    assert (command.runner, command.argv) == (runner, arguments)


def test_variables_before_the_command_reach_the_run():
    assert parse_test_command("A=1 B='x y' pytest").env == {"A": "1", "B": "x y"}


@pytest.mark.parametrize("text", ["", "   ", "pytest 'open", "cd x && pytest", "pytest | tee log", "A=1"])
def test_a_command_that_cannot_be_run_is_refused(text):
    with pytest.raises(InputError):
        parse_test_command(text)


@pytest.mark.parametrize(
    ("command", "is_named"),
    [
        ("pytest", False),  # it collects everything
        ("pytest -k x", False),
        ("pytest tests", False),
        ("pytest .", False),
        ("pytest tests/test_a.py", True),
        ("pytest tests/sub tests/test_a.py::test_x", True),
    ],
)
def test_a_test_file_that_the_command_does_not_reach_is_named_beside_it(command, is_named):
    new = "tests/test_issue.py"
    assert (new in argv(command, also=(new,))) == is_named
    assert argv(command, also=(new,), test_ids=[f"{new}::test_x"])[-1] == f"{new}::test_x"


def test_pytest_runs_in_the_prepared_environment_and_writes_the_report():
    words = argv("pytest -q tests")
    assert words[:2] == ("/env/bin/python", "-c")
    assert words[3:6] == ("installed", "-q", "tests")
    assert "--junitxml=/results/junit.xml" in words
    assert "junit_family=xunit1" in words


def test_selected_tests_take_the_place_of_the_commands_paths():
    words = argv(
        "pytest -k tests -q tests tests/test_a.py::test_x", test_ids=["tests/test_a.py::test_y[1-2]"]
    )
    assert words.count("tests") == 1  # the value of -k
    assert "tests/test_a.py::test_x" not in words
    assert words[-1] == "tests/test_a.py::test_y"


def test_very_many_selected_tests_are_selected_by_file():
    ids = [f"tests/test_a.py::test_{i}" for i in range(1000)]
    assert argv("pytest", test_ids=ids)[-1] == "tests/test_a.py"


def test_another_command_keeps_its_words_and_gets_the_environments_python():
    assert argv("python -m unittest") == ("/env/bin/python", "-m", "unittest")
    assert argv("make test") == ("make", "test")


@pytest.mark.parametrize(
    "path",
    [
        "tests/test_a.py",
        "tests/data/x.json",
        "pkg/tests/helper.py",
        "test_x.py",
        "tests.py",
        "pkg/x_test.py",
        "conftest.py",
        "a/conftest.py",
        "pytest.ini",
        "setup.cfg",
        "pyproject.toml",
        "tox.ini",
        "sitecustomize.py",
        "src/usercustomize.py",
        "evil.pth",
    ],
)
def test_tests_and_their_set_up_are_trusted_files(path):
    assert is_trusted(path)


@pytest.mark.parametrize(
    "path", ["pkg/mod.py", "pkg/tests.py", "pkg/testing.py", "contest.py", "pkg/latest.py"]
)
def test_other_files_are_the_candidates_to_change(path):
    assert not is_trusted(path)


def test_the_trusted_layer_holds_the_bases_tests(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test(): assert 0\n")
    (tmp_path / "mod.py").write_text("x = 1\n")
    (tmp_path / "conftest.py").symlink_to("nowhere.py")
    with tarfile.open(fileobj=io.BytesIO(trusted_layer(Snapshot(tmp_path, "")))) as archive:
        assert archive.getnames() == ["tests/test_a.py"]


def statuses(result: SandboxResult, command=PYTEST) -> dict[str, str]:
    return {case.test_id: case.status.value for case in read_report(result, command, PATHS).cases}


def test_node_ids_are_rebuilt():
    outcomes = {
        "tests/test_a.py::test_x": "passed",
        "tests/test_a.py::TestC::test_y[a::b-[1]]": "ValueError: no",
        "tests/sub/test_b.py::test_z": "skipped",
        "tests/test_a.py": "SyntaxError: invalid syntax",
    }
    assert statuses(pytest_result(outcomes)) == {
        "tests/test_a.py::test_x": "passed",
        "tests/test_a.py::TestC::test_y[a::b-[1]]": "failed",
        "tests/sub/test_b.py::test_z": "skipped",
        "tests/test_a.py": "error",
    }


def xml(body: str) -> bytes:
    return f"<testsuites><testsuite>{body}</testsuite></testsuites>".encode()


def test_an_inherited_test_belongs_to_the_class_that_runs_it():
    body = '<testcase classname="tests.test_a.TestC" name="test_x" file="tests/base.py"/>'
    assert statuses(pytest_result({}, collected={"junit.xml": xml(body)})) == {
        "tests/test_a.py::TestC::test_x": "passed"
    }


def test_a_doctest_of_a_document_keeps_its_file():
    body = '<testcase classname="README.rst" name="README.rst" file="README.rst"/>'
    assert statuses(pytest_result({}, collected={"junit.xml": xml(body)})) == {
        "README.rst::README.rst": "passed"
    }


def test_a_teardown_error_outranks_the_passed_call():
    body = (
        '<testcase classname="tests.test_a" name="t" file="tests/test_a.py"/>'
        '<testcase classname="tests.test_a" name="t"><error message="m">d</error></testcase>'
    )
    result = pytest_result({}, exit_code=1, collected={"junit.xml": xml(body)})
    assert statuses(result) == {"tests/test_a.py::t": "error"}


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (pytest_result({"tests/test_a.py::t": "ValueError: x"}, exit_code=0), "ended with exit code 0"),
        (pytest_result({"tests/test_a.py::t": "passed"}, exit_code=1), "ended with exit code 1"),
        (pytest_result({"tests/test_a.py::t": "passed"}, exit_code=3), "exit code 3"),
        (pytest_result({"tests/test_a.py::t": "passed"}, collected={}), "wrote no report"),
        (pytest_result({}, collected={"junit.xml": b"<testsuites><tes"}), "cannot be read"),
        (
            pytest_result(
                {},
                collected={"junit.xml": b'<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><x>&b;</x>'},
            ),
            "cannot be read",
        ),
        (pytest_result({"tests/test_a.py::t": "passed"}, outcome=Outcome.TIMED_OUT), "did not end within"),
    ],
)
def test_a_run_without_sound_evidence_has_a_problem(result, why):
    assert why in read_report(result, PYTEST, PATHS).problem


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"report_sha256": "0" * 64}, "not the one that it wrote"),
        ({"report_sha256": ""}, "not the one that it wrote"),
        ({"exit_code": 1}, "ended with exit code 1, and its process with 0"),
        ({"num_failed": 2}, "saw 2 failures and reports none"),
    ],
)
def test_a_report_that_the_signed_account_contradicts_is_no_evidence(said, why):
    result = pytest_result({"tests/test_a.py::t": "passed"})
    forged = replace(result, collected={**result.collected, "account.json": account(result, **said)})
    assert why in read_report(forged, PYTEST, PATHS).problem


@pytest.mark.parametrize("said", [None, b"", b"[]", b'{"exit_code": "x"}'])
def test_a_report_without_a_signed_account_is_no_evidence(said):
    result = pytest_result({"tests/test_a.py::t": "passed"})
    collected = {"junit.xml": result.collected["junit.xml"]}
    collected |= {"account.json": said} if said is not None else {}
    assert (
        "not the one that it wrote"
        in read_report(replace(result, collected=collected), PYTEST, PATHS).problem
    )


def test_a_report_that_was_too_long_to_keep_is_told_from_none():
    result = pytest_result({"tests/test_a.py::t": "passed"})
    lost = replace(result, collected={"account.json": account(result)})
    assert "too long" in read_report(lost, PYTEST, PATHS).problem


def test_only_what_is_not_trusted_counts_as_a_change_of_the_runner():
    result = pytest_result({"tests/test_a.py::t": "passed"})
    changes = {"unittest.case.x": "tests/conftest.py", "_pytest.runner.y": "pkg/mod.py", "builtins.z": ""}
    told = replace(
        result, collected={**result.collected, "account.json": account(result, runner_changes=changes)}
    )
    assert read_report(told, PYTEST, PATHS).runner_changes == {"_pytest.runner.y", "builtins.z"}


def test_low_coverage_alone_is_no_problem():
    output = "FAIL Required test coverage of 90% not reached."
    result = pytest_result({"tests/test_a.py::t": "passed"}, exit_code=1, output=output)
    assert read_report(result, PYTEST, PATHS).problem == ""


def test_another_command_is_one_test():
    output = "Traceback (most recent call last):\n  File 'x'\nValueError: bad\n"
    result = pytest_result({}, exit_code=2, output=output)
    [case] = read_report(result, parse_test_command("make test"), PATHS).cases
    assert (case.test_id, case.status, case.message) == ("command", TestStatus.FAILED, "ValueError: bad")


@given(st.binary(max_size=300), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_no_report_makes_it_raise(data, exit_code):
    read_report(pytest_result({}, exit_code=exit_code, collected={"junit.xml": data}), PYTEST, PATHS)


def no_start(outcomes, **overrides):
    report = read_report(pytest_result(outcomes, **overrides), PYTEST, PATHS)
    failures = [c for c in report.cases if c.status in (TestStatus.FAILED, TestStatus.ERROR)]
    return explain_no_start(report, failures, PATHS)


def test_a_missing_dependency_is_named_with_what_to_do():
    error = no_start({"tests/test_a.py": "ModuleNotFoundError: No module named 'numpy.linalg'"})
    assert isinstance(error, PrepareError)
    assert "'numpy'" in str(error)
    assert "requirements" in error.hint


def test_a_missing_module_of_the_tree_is_the_codes_own_failure():
    assert missing_module("ModuleNotFoundError: No module named 'pkg.other'", PATHS) == ""
    assert no_start({"tests/test_a.py": "ModuleNotFoundError: No module named 'pkg.other'"}) is None


def test_a_missing_dependency_of_one_file_does_not_hide_real_failures():
    outcomes = {
        "tests/test_a.py": "ModuleNotFoundError: No module named 'numpy'",
        "tests/sub/test_b.py::t": "AssertionError: no",
    }
    assert no_start(outcomes) is None


def test_no_tests_and_a_refused_command_are_the_users_input():
    assert "no tests" in str(no_start({}, exit_code=5))
    error = no_start({}, exit_code=4, collected={}, output="ERROR: unrecognized arguments: --nope\n")
    assert "--nope" in str(error)


def test_a_conftest_broken_by_the_code_is_the_codes_own_failure():
    output = "ImportError while loading conftest '/workspace/conftest.py'.\nE   SyntaxError: invalid syntax\n"
    assert no_start({}, exit_code=4, collected={}, output=output) is None


def test_a_conftest_that_misses_a_dependency_is_named():
    output = "ImportError while loading conftest 'c.py'.\nE   ModuleNotFoundError: No module named 'numpy'\n"
    assert "'numpy'" in str(no_start({}, exit_code=4, collected={}, output=output))


def test_the_hanging_test_is_found_with_its_class():
    source = "class TestA:\n    def test_hang(self):\n        inner()\ndef inner():\n    while True: pass\n"
    output = (
        "tests/test_a.py Timeout (0:00:30)!\nThread 0x7f (most recent call first):\n"
        '  File "/workspace/tests/test_a.py", line 5 in inner\n'
        '  File "/workspace/tests/test_a.py", line 3 in test_hang\n'
        '  File "/env/lib/_pytest/python.py", line 187 in pytest_pyfunc_call\n'
    )
    report = read_report(pytest_result({}, outcome=Outcome.TIMED_OUT, output=output), PYTEST, PATHS)
    assert hung_test(report, {"tests/test_a.py": source}) == "tests/test_a.py::TestA::test_hang"
    assert hung_test(report, {}) == ""
