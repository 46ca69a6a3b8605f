"""The notebook that the readers of a project's files write into."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from typing import Any

from packaging.utils import canonicalize_name

TEST_NAMES = frozenset({"test", "tests", "testing"})
DEVELOPMENT_NAMES = frozenset({"dev", "develop", "development"})


class Declared:
    """What was found so far. Everything in it is as the project wrote it, unchecked."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self._toml: dict[str, dict[str, Any]] = {}  # by path: several readers ask for pyproject.toml
        self.tiers: dict[str, list[str]] = {"runtime": [], "test": [], "development": [], "build": []}
        self.extras: dict[str, list[str]] = {}
        self.constraints: list[str] = []
        self.pins: list[str] = []  # of a lock file
        self.name = ""
        self.requires_python = ""
        self.is_installable = False
        self.pytest_options = ""
        self.read_paths: list[str] = []
        self.warnings: list[str] = []

    def text(self, path: str) -> str | None:
        """Return a file of the project as text, or None when it is missing or leads out of the tree."""
        content = self._read(path)
        if content is not None:
            self.read_paths.append(path)
        return content

    def toml(self, path: str) -> dict[str, Any]:
        """Return a TOML file of the project; an empty one where it is missing or, with a warning, broken."""
        if path not in self._toml:
            try:
                self._toml[path] = tomllib.loads(self.text(path) or "")
            except (tomllib.TOMLDecodeError, RecursionError) as exc:
                self.warnings.append(f"{path} cannot be read: {exc}")
                self._toml[path] = {}
        return self._toml[path]

    def extra_lines(self, name: str) -> list[str]:
        """Return the requirements of one of the project's extras."""
        wanted = canonicalize_name(name)
        return [
            line for key, lines in self.extras.items() if canonicalize_name(key) == wanted for line in lines
        ]

    def add_group(self, name: str, lines: Iterable[str]) -> None:
        """Take the requirements of an extra or a dependency group, if it is for tests or development."""
        tier = tier_of(name)
        if tier:
            self.tiers[tier] += lines

    def add_extra(self, name: str, lines: Iterable[str]) -> None:
        """Take one of the project's extras, and its requirements if it is for tests or development."""
        lines = list(lines)
        self.extras[name] = lines
        self.add_group(name, lines)


def tier_of(name: str) -> str:
    """Return the tier that a group or extra belongs to by its name, or "" for none."""
    words = canonicalize_name(name).split("-")
    if TEST_NAMES & set(words):
        return "test"
    return "development" if DEVELOPMENT_NAMES & set(words) else ""
