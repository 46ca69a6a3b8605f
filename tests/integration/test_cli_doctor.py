"""`loopwright doctor` on this machine, whatever it has."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from tests.integration.model_server import serving

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def doctor(*args: str):
    done = CliRunner().invoke(app, ["doctor", "--json", *args])
    result = json.loads(done.stdout)
    return done.exit_code, result["can_fix"], {check["name"]: check for check in result["checks"]}


def test_without_a_model_fix_cannot_run_and_doctor_says_how_to_fetch_one():
    code, can_fix, checks = doctor()
    assert (code, can_fix) == (4, False)
    assert checks["model"]["status"] == "failed"
    assert checks["model"]["hint"].startswith("fetch it: loopwright model pull")


def test_with_a_server_to_draft_with_neither_model_nor_engine_is_asked_for():
    with serving("") as server:
        code, can_fix, checks = doctor("--endpoint", server.url)
    assert (code, can_fix) == (0, True)
    assert "recital" in checks["endpoint"]["detail"]
    assert "model" not in checks
    assert checks["bubblewrap"]["detail"].startswith("runs programs")


def test_a_server_that_does_not_answer_is_a_failure():
    code, _, checks = doctor("--endpoint", "http://127.0.0.1:9/v1")
    assert code == 4
    assert checks["endpoint"]["status"] == "failed"


def test_without_git_fix_cannot_run(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, checks = doctor()
    assert code == 4
    assert checks["git"] == {
        "name": "git",
        "status": "failed",
        "detail": "not found",
        "hint": "Debian: apt install git",
    }


def test_a_home_that_cannot_be_written_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "file"))
    code, _, checks = doctor()
    assert code == 4
    assert checks["home"]["status"] == "failed"


def test_the_table_goes_to_stderr_and_ends_with_a_verdict():
    done = CliRunner().invoke(app, ["doctor"])
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("fix cannot run: model")
