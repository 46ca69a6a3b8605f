"""Reads pipenv's Pipfile, and the versions that lock files pin: one each, of packages that an index has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from workers.environment.declared import Declared
from workers.environment.pyproject import poetry_lines, table_of

LOCK_FILES = ("uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "Pipfile.lock")
_ELSEWHERE = frozenset({"git", "vcs", "path", "directory", "archive", "url", "editable", "virtual"})


def read(declared: Declared) -> None:
    """Take what a Pipfile declares, and the pins of the first lock file that there is."""
    pipfile = declared.toml("Pipfile")
    declared.tiers["runtime"] += poetry_lines(table_of(pipfile, "packages"))
    declared.tiers["development"] += poetry_lines(table_of(pipfile, "dev-packages"))
    python = table_of(pipfile, "requires").get("python_version")
    if isinstance(python, str) and not declared.requires_python:
        declared.requires_python = f"=={python}.*"
    found = (_unambiguous(_pins_in(declared, path)) for path in LOCK_FILES)
    declared.pins += next(filter(None, found), [])


def _pins_in(declared: Declared, path: str) -> list[tuple[str, str]]:
    if path != "Pipfile.lock":
        return list(_pins(declared.toml(path)))
    try:
        document = json.loads(declared.text(path) or "{}")
    except (ValueError, RecursionError) as exc:
        declared.warnings.append(f"{path} cannot be read: {exc}")
        return []
    return list(_pipenv_pins(document)) if isinstance(document, dict) else []


def _pins(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a lock file of uv, poetry or pdm, or a pylock, pins of an index: name and version."""
    packages = document.get("package", document.get("packages"))
    for package in packages if isinstance(packages, list) else ():
        if isinstance(package, dict) and _is_of_an_index(package):
            yield str(package.get("name", "")), f"=={package.get('version', '')}"


def _is_of_an_index(package: Mapping[str, Any]) -> bool:
    source = table_of(package, "source")  # uv: of every package; poetry: of those from elsewhere
    if source.get("type") in ("git", "directory", "file", "url"):
        return False
    return not _ELSEWHERE & {*package, *source}


def _pipenv_pins(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    packages = {**table_of(document, "develop"), **table_of(document, "default")}
    for name, package in packages.items():
        if isinstance(package, dict) and isinstance(package.get("version"), str):
            yield name, package["version"]


def _unambiguous(pins: Iterable[tuple[str, str]]) -> list[str]:
    """Return the pins as requirements, without packages that have several (by platform, or by Python)."""
    found = set(pins)
    num_versions = Counter(name for name, _ in found)
    lines = [name + version for name, version in sorted(found) if num_versions[name] == 1]
    return [line for line in lines if _is_pin(line)]


def _is_pin(line: str) -> bool:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return False
    # A local version (2.1+cpu) comes from an index of its own.
    return not requirement.url and not requirement.extras and "+" not in line and bool(requirement.specifier)
