"""Downloading runs no foreign code, and failures name the requirement. Real pip, local archives."""

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.exceptions import PrepareError
from tests.unit.wheels import make_sdist, make_wheel, only_index
from workers.environment.interpreter import Interpreter
from workers.environment.wheels import ConflictError, NoWheelError, PipIndex

INTERPRETER = Interpreter(
    version="3.11.7", abi="cp311", machine="x86_64", glibc="2.36", prefix="/usr", search_path="/bin"
)


def fetch(tmp_path: Path, *requirements: str, constraints=(), options=None) -> list[str]:
    wheelhouse = tmp_path / "wheelhouse"
    wheelhouse.mkdir(exist_ok=True)
    options = INTERPRETER.pip_options() if options is None else options
    asyncio.run(
        PipIndex().download_wheels(
            requirements, constraints, wheelhouse, options=options, on_progress=lambda _line: None
        )
    )
    return sorted(path.name for path in wheelhouse.iterdir())


def fetch_source(tmp_path: Path, requirement: str) -> Path:
    (tmp_path / "sources").mkdir()
    return asyncio.run(
        PipIndex().download_source(
            requirement,
            tmp_path / "sources",
            options=INTERPRETER.pip_options(),
            on_progress=lambda _line: None,
        )
    )


def evil_setup(witness: Path) -> str:
    return f"open({str(witness)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='evil')\n"


def test_requirements_come_with_what_they_require(tmp_path, monkeypatch):
    index = tmp_path / "index"
    make_wheel(index, "first", requires=["second>=1"])
    make_wheel(index, "second", "1.5")
    make_wheel(index, "second", "2.0")
    only_index(monkeypatch, index)
    assert fetch(tmp_path, "first", constraints=["second<2"]) == [
        "first-1.0-py3-none-any.whl",
        "second-1.5-py3-none-any.whl",
    ]


def test_wheels_fit_the_sandbox_and_not_this_machine(tmp_path, monkeypatch):
    index = tmp_path / "index"
    for tag in (
        "cp311-cp311-manylinux_2_36_x86_64",
        "cp312-cp312-manylinux_2_36_x86_64",
        "cp311-cp311-win_amd64",
    ):
        make_wheel(index, "ext", tag=tag)
    only_index(monkeypatch, index)
    other = Interpreter(**{**INTERPRETER.__dict__, "version": "3.12.1", "abi": "cp312"})
    assert fetch(tmp_path, "ext", options=other.pip_options()) == [
        "ext-1.0-cp312-cp312-manylinux_2_36_x86_64.whl"
    ]


def test_requirements_of_other_pythons_hold_for_the_sandbox_and_not_this_machine(tmp_path, monkeypatch):
    index = tmp_path / "index"
    make_wheel(index, "first", requires=["older; python_version < '3.8'", "newer; python_version >= '3.8'"])
    make_wheel(index, "older")
    make_wheel(index, "newer")
    only_index(monkeypatch, index)
    other = replace(INTERPRETER, version="3.7.3", abi="cp37m")
    names = fetch(tmp_path, "first", "newer; python_full_version > '3.7.4'", options=other.pip_options())
    assert names == ["first-1.0-py3-none-any.whl", "older-1.0-py3-none-any.whl"]


def test_wheels_for_a_newer_c_library_are_not_taken(tmp_path, monkeypatch):
    make_wheel(tmp_path / "index", "ext", tag="cp311-cp311-manylinux_2_37_x86_64")
    only_index(monkeypatch, tmp_path / "index")
    with pytest.raises(NoWheelError):
        fetch(tmp_path, "ext")


def test_source_archive_is_not_run_and_named_as_missing_a_wheel(tmp_path, monkeypatch):
    make_sdist(tmp_path / "index", "evil", evil_setup(tmp_path / "witness"))
    only_index(monkeypatch, tmp_path / "index")
    with pytest.raises(NoWheelError) as caught:
        fetch(tmp_path, "evil>=1")
    assert caught.value.requirement == "evil>=1"
    assert not (tmp_path / "witness").exists()


def test_source_archive_is_fetched_without_being_run(tmp_path, monkeypatch):
    archive = make_sdist(tmp_path / "index", "evil", evil_setup(tmp_path / "witness"))
    only_index(monkeypatch, tmp_path / "index")
    fetched = fetch_source(tmp_path, "evil>=1")
    assert fetched == tmp_path / "sources" / archive.name
    assert fetched.read_bytes() == archive.read_bytes()
    assert not (tmp_path / "witness").exists()


def test_source_archive_that_a_wheel_points_to_by_url_is_not_run(tmp_path, monkeypatch):
    archive = make_sdist(tmp_path / "elsewhere", "evil", evil_setup(tmp_path / "witness"))
    make_wheel(tmp_path / "index", "first", requires=[f"evil @ file://{archive}"])
    only_index(monkeypatch, tmp_path / "index")
    with pytest.raises(PrepareError, match=r"evil-1\.0\.tar\.gz"):
        fetch(tmp_path, "first")
    assert not (tmp_path / "witness").exists()


def test_version_control_url_starts_no_program(tmp_path, monkeypatch):
    witness = tmp_path / "witness"
    make_wheel(tmp_path / "index", "first", requires=["evil @ git+file:///nowhere/evil"])
    only_index(monkeypatch, tmp_path / "index")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\ntouch {witness}\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(PrepareError):
        fetch(tmp_path, "first")
    assert not witness.exists()


def test_unknown_requirement_is_named(tmp_path, monkeypatch):
    make_wheel(tmp_path / "index", "first", requires=["no-such-thing==3"])
    only_index(monkeypatch, tmp_path / "index")
    with pytest.raises(NoWheelError, match="no-such-thing==3"):
        fetch(tmp_path, "first")
    with pytest.raises(NoWheelError, match="no-such-thing"):
        fetch_source(tmp_path, "no-such-thing")


def test_conflict_is_shown_as_pip_explains_it(tmp_path, monkeypatch):
    make_wheel(tmp_path / "index", "first", requires=["second==1"])
    make_wheel(tmp_path / "index", "second", "1")
    make_wheel(tmp_path / "index", "second", "2")
    only_index(monkeypatch, tmp_path / "index")
    with pytest.raises(ConflictError, match="second==2"):
        fetch(tmp_path, "first", "second==2")


def test_unreachable_index_is_called_so(tmp_path, monkeypatch):
    only_index(monkeypatch, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(PrepareError, match="cannot be reached"):
        fetch(tmp_path, "first")


def test_cancelled_download_leaves_no_process(tmp_path, monkeypatch):
    only_index(monkeypatch, tmp_path)
    monkeypatch.delenv("PIP_NO_INDEX")
    (tmp_path / "wheelhouse").mkdir()
    before = children()  # such as the resource tracker of a test with processes of its own

    async def cancelled() -> None:
        asked = asyncio.Event()

        async def never_answer(*_streams) -> None:
            asked.set()
            await asyncio.Event().wait()

        server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/simple")
        fetching = PipIndex().download_wheels(
            ["first"], (), tmp_path / "wheelhouse", options=(), on_progress=lambda _line: None
        )
        task = asyncio.create_task(fetching)
        await asked.wait()
        assert children() != before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.close()

    asyncio.run(cancelled())
    assert children() == before
    assert list(tmp_path.glob(".pip-*")) == []


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
