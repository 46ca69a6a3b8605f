"""The `loopwright` command as a whole: quick help, stable exit codes, one line for each error."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from model.exceptions import DepthError, ModelError
from pipeline.cli.app import app, load_command
from pipeline.cli.errors import EXIT_CODES_HELP, ExitCode, errors_become_exit_codes, exit_code_of
from pipeline.exceptions import (
    EngineDeadError,
    EnvironmentBrokenError,
    InputError,
    LimitReachedError,
    NothingToRepairError,
    PrepareError,
)

COMMANDS = ["fix", "batch", "runs", "model", "doctor", "up", "status", "down", "sandbox"]
HEAVY = [
    "torch",
    "vllm",
    "ray",
    "transformers",
    "docker",
    "langgraph",
    "git",
    "pydantic",
    "pydantic_settings",
]
HEAVY += ["httpx", "jinja2", "asyncio", "psutil", "tree_sitter"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from pipeline.cli import main\n"
        "sys.argv = ['loopwright', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY"
    assert "fix" in done.stdout


def test_every_command_is_listed_and_can_be_loaded():
    help_text = CliRunner().invoke(app, ["--help"]).output
    for name in COMMANDS:
        assert f" {name} " in help_text
        assert load_command(name).name == name


def test_help_explains_every_exit_code():
    help_text = CliRunner().invoke(app, ["--help"]).output
    for code in ExitCode:
        assert f"\n{code.value}  " in EXIT_CODES_HELP
        assert f" {code.value}  " in help_text


def test_version_is_printed():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout.split()[0]) == (0, "loopwright")


def test_an_unknown_command_is_bad_usage_and_names_its_neighbour():
    done = CliRunner().invoke(app, ["fxi"])
    assert done.exit_code == ExitCode.INPUT
    assert "'fix'" in done.stderr


def test_a_command_whose_packages_are_missing_breaks_alone_and_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pipeline.cli.cluster_commands", None)
    done = CliRunner().invoke(app, ["up"])
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert "pip install 'loopwright[cpu]'" in done.stderr
    assert CliRunner().invoke(app, ["runs", "list"]).exit_code == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NothingToRepairError("the tests pass"), ExitCode.NOTHING_TO_REPAIR),
        (InputError("no"), ExitCode.INPUT),
        (DepthError("depth 0"), ExitCode.INPUT),
        (LimitReachedError("time"), ExitCode.UNSOLVED),
        (EnvironmentBrokenError("no"), ExitCode.ENVIRONMENT),
        (EngineDeadError("no"), ExitCode.ENVIRONMENT),
        (PrepareError("no"), ExitCode.ENVIRONMENT),
        (ModelError("no"), ExitCode.ENVIRONMENT),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.ENVIRONMENT),
        (OSError(errno.ENOENT, "gone"), ExitCode.INTERNAL),
        (KeyError("x"), ExitCode.INTERNAL),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error, code):
    assert exit_code_of(error) is code
    with pytest.raises(typer.Exit) as caught, errors_become_exit_codes():
        raise error
    assert caught.value.exit_code == code


def test_an_error_is_one_line_and_a_hint_without_control_characters(capsys):
    with pytest.raises(typer.Exit), errors_become_exit_codes():
        raise InputError("bad \x1b[31mname\x00\nnext line", hint="do\nthis")
    assert (
        capsys.readouterr().err
        == "loopwright: bad name\N{REPLACEMENT CHARACTER} next line\n  hint: do this\n"
    )


def test_an_internal_error_is_one_line_and_leaves_its_traceback_in_a_file(capsys, home):
    with pytest.raises(typer.Exit), errors_become_exit_codes():
        raise KeyError("x")
    assert str(home / "error.txt") in capsys.readouterr().err
    assert "Traceback" in (home / "error.txt").read_text()


def test_typer_own_exits_pass_through():
    with pytest.raises(typer.BadParameter), errors_become_exit_codes():
        raise typer.BadParameter("no")
