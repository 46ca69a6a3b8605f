"""Asks a sandbox to run the tests: which command, on which files, the trusted ones on top."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from pipeline.core import PreparedEnvironment, SandboxLimits, SandboxRequest
from pipeline.snapshot import Snapshot, tar_of
from pipeline.testrun.command import PYTHON, TestCommand

JUNIT, ACCOUNT, COVERAGE = "junit.xml", "account.json", "coverage.json"  # in /results

# A candidate that could touch these could forge its own verdict.
_TRUSTED_NAME = re.compile(
    r"conftest\.py|(site|user)customize\.py|setup\.py|noxfile\.py|\.?pytest\.(ini|toml)|setup\.cfg|tox\.ini"
    r"|pyproject\.toml|\.coveragerc|Makefile|.*\.pth"
)
# At the top `tests.py` is the suite; deeper (jinja2/tests.py) it is a module like any other.
_TEST_FILE = re.compile(r"(^|/)tests?/|(^|/)(test_[^/]*|[^/]*_test)\.py$|^tests?\.py$")
# Options of pytest whose value is a word of its own, which must not be taken for a path.
_VALUE_OPTION = re.compile(
    r"-[kmcponWr]|--(rootdir|ignore|ignore-glob|deselect|confcutdir|basetemp|durations|maxfail|tb|log-level"
    r"|import-mode|junitxml|junit-xml|dist|cov-config|cov-report)"
)
# The same run twice should say the same: no hash seed or time zone of the machine.
_ENV = {
    "COVERAGE_FILE": "/tmp/.coverage",  # noqa: S108 - inside the sandbox
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "TZ": "UTC",
}
# A tree that has one of these is tested with a pytest that runs from the tree, as its developers run it.
_RUNNER = re.compile(
    r"(src/|lib/)?(_pytest|pytest|pluggy|iniconfig|packaging|exceptiongroup|tomli|attr|pygments)(\.py|/__init__\.py)"
)
_MAX_SELECTED = 200  # more ids than this are selected by file


def is_trusted(path: str) -> bool:
    """Say whether a file belongs to the tests and their set-up, which no candidate may change or add."""
    return bool(_TRUSTED_NAME.fullmatch(PurePosixPath(path).name) or _TEST_FILE.search(path))


def trusted_layer(snapshot: Snapshot) -> bytes:
    """Return the trusted files of the base as a tar stream, to be laid over a candidate's files."""
    files = {}
    for path in filter(is_trusted, snapshot.paths):
        try:
            files[path] = snapshot.read_bytes(path)
        except FileNotFoundError:
            continue  # a link that leads nowhere
    return tar_of(files)


def build_request(
    command: TestCommand,
    *,
    environment: PreparedEnvironment,
    layers: Sequence[bytes],
    limits: SandboxLimits,
    run_id: str,
    test_ids: Iterable[str] | None = None,
    options: Sequence[str] = (),
    paths: Sequence[str] = (),
    also: Sequence[str] = (),
) -> SandboxRequest:
    """Return the request for one run: of the whole command, or of some tests of it when pytest runs them.

    `options` are added to pytest's; `paths` are the tree's files, by which the command's own paths are told;
    `also` are test files that belong to the whole command without being named in it.
    """
    if command.runner == "pytest":
        argv = _pytest_argv(command, environment.python, test_ids, options, paths, also)
    else:
        python = PYTHON.match(command.argv[0])
        argv = (environment.python if python else command.argv[0], *command.argv[1:])
    return SandboxRequest(
        argv=argv,
        layers=tuple(layers),
        environment=environment,
        env={**_ENV, **command.env},
        limits=limits,
        collect=(JUNIT, ACCOUNT, COVERAGE),
        signed=ACCOUNT if command.runner == "pytest" else "",
        run_id=run_id,
    )


def hang_options(limits: SandboxLimits) -> tuple[str, ...]:
    """Return the options that make pytest show where a test hangs, before the sandbox kills it."""
    return ("-o", f"faulthandler_timeout={limits.wall_seconds / 2:g}")


def _pytest_argv(
    command: TestCommand,
    python: str,
    test_ids: Iterable[str] | None,
    options: Sequence[str],
    paths: Sequence[str],
    also: Sequence[str],
) -> tuple[str, ...]:
    arguments = list(command.argv)
    named = set(arguments) - set(_without_paths(arguments, paths))
    # A command that names no path collects everything; one that does must name these too.
    selected = [path for path in also if named and not any(_holds(place, path) for place in named)]
    if test_ids is not None:
        arguments = _without_paths(arguments, paths)
        selected = _selection(test_ids)
    fixed = ("-p", "no:cacheprovider", f"--junitxml=/results/{JUNIT}", "-o", "junit_family=xunit1")
    # One file that cannot be collected must not hide the others, nor the first failure the rest.
    complete = ("--continue-on-collection-errors", "--maxfail=0", "--rootdir=/workspace")
    origin = "tree" if any(map(_RUNNER.fullmatch, paths)) else "installed"
    return (python, "-c", _inside(), origin, *arguments, *fixed, *complete, *options, *selected)


@cache
def _inside() -> str:
    return Path(__file__).with_name("inside.py").read_text()


def _holds(place: str, path: str) -> bool:
    return PurePosixPath(place) in (PurePosixPath(path), *PurePosixPath(path).parents)


def _without_paths(arguments: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Drop the arguments that name files or folders of the tree: the selected tests take their place."""
    known = set(paths)
    for path in paths:
        known.update(str(parent) for parent in PurePosixPath(path).parents)
    kept: list[str] = []
    for i, argument in enumerate(arguments):
        is_value = i > 0 and _VALUE_OPTION.fullmatch(arguments[i - 1])
        place = str(PurePosixPath(argument.partition("::")[0]))
        if argument.startswith("-") or is_value or place not in known:
            kept.append(argument)
    return kept


def _selection(test_ids: Iterable[str]) -> list[str]:
    """Return what selects the tests: functions, without parameters, whose ids may not survive a report."""
    functions = sorted({test_id.partition("[")[0] for test_id in test_ids})
    if len(functions) <= _MAX_SELECTED:
        return functions
    return sorted({test_id.partition("::")[0] for test_id in functions})
