"""Renders what the model sees. The words are in prompts/*.j2; an unknown variable is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.core import ContextBundle, Message, Prompt
from pipeline.draft.answer import definition_name
from pipeline.draft.lines import Span, is_gap, quoted_line, start_of
from pipeline.draft.source import dedent
from pipeline.draft.syntax import first_definition

DIFF_FENCE = "```diff\n"  # an answer that begins with it is read as a diff first
Style = Literal["whole", "blocks", "diff"]
STOP = ("\n```",)  # a fence inside a docstring is indented, so it does not stop
_MAX_STATEMENT_CHARS = 2000
_CALL = re.compile(r"^\s*#   (\S.*)$", re.MULTILINE)  # as the stub of a missing definition tells them


@dataclass(frozen=True, slots=True)
class Feedback:
    """An earlier attempt at the same suspect, and what became of it."""

    code: str
    error: str


def render_prompt(
    bundle: ContextBundle,
    *,
    statement: str = "",
    kind: Literal["fix", "implement"] = "fix",
    feedback: Feedback | None = None,
    span: Span | None = None,
    style: Style = "whole",
) -> Prompt:
    """Return the prompt for one suspect: a definition is written again, a module is edited in blocks.

    The styles `blocks` and `diff` ask for an edit of one or more files instead.

    With a `span` that statement of the definition alone is written again. Only the prefill says which one it
    is: the prompts of all spans of a suspect share the rest.
    """
    if style == "whole" and not bundle.suspect.qualname:
        style = "blocks"
    header = dedent(bundle.header).rstrip()
    # A header that does not parse may be the fault itself, so the model must be free to change it.
    header = header if bundle.suspect.qualname and _begins_definition(header) else ""
    user = (
        _templates()
        .get_template("rewrite.j2")
        .render(
            statement=statement.strip()[:_MAX_STATEMENT_CHARS],
            kind="implement" if bundle.suspect.is_unwritten else kind,
            style="line" if span else style,
            noun=_noun(bundle),
            name=definition_name(bundle.suspect.qualname),
            path=bundle.suspect.path,
            imports=bundle.imports.strip("\n"),
            enclosing=bundle.enclosing.strip("\n"),
            definition=_shown(bundle, style, header).rstrip(),
            calls=_CALL.findall(bundle.definition) if bundle.suspect.is_unwritten else [],
            related=[text.strip("\n") for text in bundle.related],
            failing_tests=[text.strip("\n") for text in bundle.failing_tests],
            failure=bundle.failure.strip("\n"),
            symptom=bundle.symptom or "The failure",
            feedback=feedback,
            has_parameters=not header.endswith(("(", ",")),
        )
    )
    system = _templates().get_template("system.j2").render()
    messages = (Message("system", system.strip()), Message("user", user.strip()))
    prefill = _line_prefill(bundle.definition, span) if span else _prefill(bundle, style, header)
    return Prompt(messages, prefill=prefill)


def _shown(bundle: ContextBundle, style: Style, header: str) -> str:
    if style != "whole":
        return bundle.definition  # what is to be quoted must be shown as it stands
    if bundle.suspect.is_unwritten and header:  # a small model would copy what stands for the body
        return f"{header}..." if header.endswith(("(", ",")) else header
    return dedent(bundle.definition)


def _prefill(bundle: ContextBundle, style: Style, header: str) -> str:
    path = bundle.suspect.path
    if style == "blocks":
        return f"```\n{path}\n<<<<<<< SEARCH\n"
    if style == "diff":
        return f"{DIFF_FENCE}--- a/{path}\n+++ b/{path}\n@@"
    return f"```python\n{header}"


def _line_prefill(definition: str, span: Span) -> str:
    line = quoted_line(definition, span)
    start = start_of(line)
    if is_gap(span):
        return (
            f"Something is missing before this line:\n```python\n{line}\n```\n"
            f"This must be inserted before it:\n```python\n{start}"
        )
    return f"This line is wrong:\n```python\n{line}\n```\nIt must be:\n```python\n{start}"


def _begins_definition(header: str) -> bool:
    """Say whether an answer may go on from it: a signature, a docstring behind it, or an open bracket."""
    bodies = (" pass", "", "*_): pass")
    return any(first_definition(header + body) for body in bodies)


def _noun(bundle: ContextBundle) -> str:
    if not bundle.suspect.qualname:
        return "module"
    lines = dedent(bundle.definition).split("\n")
    return "class" if any(line.startswith("class ") for line in lines) else "function"


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "prompts"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - the reader is a model, not a browser
    )
