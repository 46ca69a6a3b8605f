"""Renders the prompt for a reproduction test. The words are in prompts/reproduce.j2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.core import Message, Prompt
from pipeline.reproduce.example import Example

STOP = ("\n```", "\ndef test_", "\nclass ", "\nif __name__")
_MAX_STATEMENT_CHARS = 3000
_MAX_SOURCE_LINES = 60
_SOURCE_ROOTS = ("src/", "lib/")


@dataclass(frozen=True, slots=True)
class Subject:
    """A function that the issue may be about."""

    path: str
    qualname: str
    source: str

    @property
    def module(self) -> str:
        """The dotted name by which tests import its module."""
        path = self.path
        for root in _SOURCE_ROOTS:
            path = path.removeprefix(root)
        return ".".join(PurePosixPath(path.removesuffix(".py").removesuffix("/__init__")).parts)

    @property
    def imported(self) -> str:
        """The name that a test imports to use it: the function's, or its class's."""
        return self.qualname.partition(".")[0]


def render_reproduction(statement: str, subjects: Sequence[Subject], example: Example) -> Prompt:
    """Return the prompt; its prefill holds the imports and the first word of the test."""
    imports = _imports(subjects, example)
    text = (
        _templates()
        .get_template("reproduce.j2")
        .render(
            statement=statement.strip()[:_MAX_STATEMENT_CHARS],
            subjects=[(subject.path, _shortened(subject.source)) for subject in subjects],
            example=example,
        )
    )
    system = "You are a careful Python programmer. You write one short pytest test that shows a bug."
    messages = (Message("system", system), Message("user", text.strip()))
    return Prompt(messages, prefill=f"```python\n{imports}\n\n\ndef test_")


def _imports(subjects: Sequence[Subject], example: Example) -> str:
    """Return the example's imports and that of the first subject, where the example does not have it."""
    lines = example.imports.splitlines()
    first = subjects[0] if subjects else None
    if first and not any(first.imported in line.replace(",", " ").split() for line in lines):
        lines.append(f"from {first.module} import {first.imported}")
    if not any(line == "import pytest" for line in lines):
        lines.insert(0, "import pytest")
    return "\n".join(lines)


def _shortened(source: str) -> str:
    lines = source.strip("\n").split("\n")
    return "\n".join([*lines[:_MAX_SOURCE_LINES], "# ... cut"] if len(lines) > _MAX_SOURCE_LINES else lines)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "prompts"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - the reader is a model, not a browser
    )
