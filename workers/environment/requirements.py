"""Reads what a Python project needs from its files, without running any of its code.

Read: pyproject.toml (PEP 621, PEP 735, poetry, pdm, uv, hatch, flit), setup.cfg, literals in setup.py, tox's
files, requirements files, Pipfile, and the versions in lock files. Only packages from an index count: a
direct URL, a path or an index named by the project is left out with a warning, since each would let the
project choose what this machine fetches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pipeline.snapshot import Snapshot
from workers.environment import lock_files, pyproject, requirement_files, setup_files, tox_files
from workers.environment.declared import Declared

# Not needed to run tests, and large. Left out of the development tier only.
_TOOLS = frozenset(
    {
        "autoflake",
        "bandit",
        "black",
        "build",
        "bump-my-version",
        "bump2version",
        "bumpversion",
        "codecov",
        "commitizen",
        "coveralls",
        "flake8",
        "furo",
        "interrogate",
        "isort",
        "mkdocs",
        "mkdocs-material",
        "mypy",
        "nox",
        "pip-tools",
        "pre-commit",
        "pycodestyle",
        "pydocstyle",
        "pylint",
        "pyright",
        "pyupgrade",
        "readme-renderer",
        "ruff",
        "sphinx",
        "sphinx-rtd-theme",
        "tox",
        "towncrier",
        "twine",
        "uv",
    }
)
# An environment keeps what was compiled from these, so it cannot serve a tree where they differ.
_COMPILED_SUFFIXES = (".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".pyx", ".pxd", ".rs", ".f90", "Cargo.toml")
# Options that pytest refuses when their plugin is missing, as they stand in a project's addopts.
_PLUGIN_OF_OPTION = {
    "-n": "pytest-xdist",
    "--numprocesses": "pytest-xdist",
    "--dist": "pytest-xdist",
    "--timeout": "pytest-timeout",
    "--benchmark": "pytest-benchmark",
    "--asyncio-mode": "pytest-asyncio",
    "--reruns": "pytest-rerunfailures",
    "--randomly": "pytest-randomly",
    "--random-order": "pytest-random-order",
    "--doctest-plus": "pytest-doctestplus",
    "--mypy": "pytest-mypy",
    "--flake8": "pytest-flake8",
    "--black": "pytest-black",
    "--ruff": "pytest-ruff",
    "--checkdocs": "jaraco-packaging",
    "--enabler": "pytest-enabler",
    "--html": "pytest-html",
    "--snapshot": "syrupy",
}


@dataclass(frozen=True)
class ProjectRequirements:
    """What a project declares, as PEP 508 requirements. Only the development tier may be given up."""

    runtime: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    development: tuple[str, ...] = ()
    build: tuple[str, ...] = ()  # what builds the project itself
    constraints: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()  # constraints of a lock file, which may be given up
    name: str = ""  # of the distribution, where it is declared
    requires_python: str = ""
    is_installable: bool = False
    fingerprint: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # of all files that count
    warnings: tuple[str, ...] = ()


def detect(tree: Path) -> ProjectRequirements:
    """Return what the project at `tree` declares; possibly nothing. Never raises for its content."""
    snapshot = Snapshot(tree, "")
    declared = Declared(lambda path: _read(snapshot, path))
    pyproject.read(declared)
    setup_files.read(declared)
    requirement_files.read(declared, snapshot.paths)
    tox_files.read(declared)
    lock_files.read(declared)
    kept = _Filter(declared)
    tiers = {name: kept.usable(lines) for name, lines in declared.tiers.items()}
    plugins = _plugins(declared.pytest_options)
    decisive = sorted({*declared.read_paths, *filter(_decides_build, snapshot.paths)})
    return ProjectRequirements(
        runtime=tiers["runtime"],
        test=(*tiers["test"], *plugins),
        development=tuple(line for line in tiers["development"] if _name(line) not in _TOOLS),
        build=tiers["build"],
        constraints=kept.usable(declared.constraints),
        pins=kept.usable(declared.pins),
        name=declared.name,
        requires_python=declared.requires_python,
        is_installable=declared.is_installable,
        fingerprint=tuple((path, _digest(snapshot, path)) for path in decisive),
        warnings=tuple(dict.fromkeys(declared.warnings)),
    )


def _read(snapshot: Snapshot, path: str) -> str | None:
    try:
        return snapshot.read_bytes(path).decode("utf-8-sig", "replace")
    except OSError:
        return None


def _decides_build(path: str) -> bool:
    return path in lock_files.LOCK_FILES or path.endswith(_COMPILED_SUFFIXES)


def _digest(snapshot: Snapshot, path: str) -> str:
    try:
        return hashlib.sha256(snapshot.read_bytes(path)).hexdigest()
    except OSError:
        return ""


class _Filter:
    """Keeps the requirements that an index can answer, once each; the project's own extras are expanded."""

    def __init__(self, declared: Declared) -> None:
        self._declared = declared

    def usable(self, lines: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._expand(lines, frozenset())))

    def _expand(self, lines: Iterable[str], within: frozenset[str]) -> Iterable[str]:
        for line in lines:
            requirement = self._parse(line)
            if requirement is None:
                continue
            own = self._declared.name and canonicalize_name(requirement.name) == canonicalize_name(
                self._declared.name
            )
            if own:
                for extra in sorted(set(requirement.extras) - within):
                    yield from self._expand(self._declared.extra_lines(extra), within | {extra})
            else:
                yield str(requirement)

    def _parse(self, line: str) -> Requirement | None:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            self._declared.warnings.append(f"left out, not a requirement that can be read: {line!r}")
            return None
        if requirement.url:
            self._declared.warnings.append(f"left out, not from a package index: {line}")
            return None
        return requirement


def _name(line: str) -> str:
    return canonicalize_name(Requirement(line).name)


def _plugins(options: str) -> tuple[str, ...]:
    words = options.split()
    matches: Callable[[str], bool] = lambda option: any(  # noqa: E731
        word == option or (option != "-n" and word.startswith(option)) for word in words
    )
    found = [plugin for option, plugin in _PLUGIN_OF_OPTION.items() if matches(option)]
    return tuple(dict.fromkeys(found))
