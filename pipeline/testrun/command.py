"""Reads the test command that a user gives."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from pipeline.exceptions import InputError

PYTHON = re.compile(r"^(.*/)?python(3(\.\d+)?)?$")
_ASSIGNMENT = re.compile(r"^[A-Za-z_]\w*=")
_SHELL = frozenset(("&&", "||", "|", ";", "&", ">", "<", ">>"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCommand:
    """A test command, taken apart."""

    __test__ = False

    runner: Literal["pytest", "other"]
    argv: tuple[str, ...]  # for pytest: its arguments alone
    env: Mapping[str, str] = field(default_factory=dict)


def parse_test_command(text: str) -> TestCommand:
    """Return the command, with pytest recognised as `pytest …` or `python -m pytest …`.

    Raises:
        InputError: it is empty, has an open quote, or needs a shell.
    """
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise InputError(f"the test command {text!r} cannot be read: {exc}") from exc
    env: dict[str, str] = {}
    while words and _ASSIGNMENT.match(words[0]):
        name, _, env[name] = words.pop(0).partition("=")
    if not words:
        raise InputError("the test command is empty", hint="give one, such as 'python -m pytest tests'")
    if shell := _SHELL.intersection(words):
        hint = "wrap it, as in: sh -c '...'"
        raise InputError(f"the test command {text!r} needs a shell for {min(shell)!r}", hint=hint)
    if PurePosixPath(words[0]).name in ("pytest", "py.test"):
        return TestCommand(runner="pytest", argv=tuple(words[1:]), env=env)
    if PYTHON.match(words[0]) and words[1:3] == ["-m", "pytest"]:
        return TestCommand(runner="pytest", argv=tuple(words[3:]), env=env)
    return TestCommand(runner="other", argv=tuple(words), env=env)
