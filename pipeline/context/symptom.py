"""Says in a sentence what a failing test complains of, by the kind of its failure."""

from __future__ import annotations

import re

from pipeline.core import TestCase

_COMPARISON = re.compile(r"^E\s+(?:AssertionError: )?assert (?P<left>.+?) == (?P<right>.+)$", re.MULTILINE)
_VALUE_OF = re.compile(r"^E\s+\+\s+where (?P<value>.+?) = (?P<call>.+)$", re.MULTILINE)
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?P<name>\w+(?:Error|Exception|Warning|Interrupt|Exit))\b")
_NOT_RAISED = re.compile(r"DID NOT RAISE (?:<class '(?:[\w]+\.)*(?P<name>\w+)'>)?")
_HANG = re.compile(r"did not end|[Tt]imeout|timed out")
_NOT_LOADED = ("ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError", "TabError")
_MAX_VALUE_CHARS = 100  # of what is quoted in the sentence; the failure itself follows it anyway


def symptom(case: TestCase) -> str:
    """Return what is wrong, as a prompt says it before it quotes the failure.

    Of a comparison that pytest explains it names both values: which of them is the code's own is told by the
    call that gave it, and no matter which side it stands on.
    """
    name = _name(case.message)
    if _HANG.search(case.message):
        return "It does not come to an end"
    if missing := _NOT_RAISED.search(case.message):
        wanted = f"`{missing['name']}`" if missing["name"] else "an exception"
        return f"It must raise {wanted} and does not"
    if name in _NOT_LOADED:
        return f"It cannot be imported (`{name}`)"
    if name and name != "AssertionError":
        return f"It raises `{name}`"
    return _comparison(case.details) or "The failure"


def _comparison(details: str) -> str:
    compared, told = _COMPARISON.search(details), _VALUE_OF.search(details)
    if not compared:
        return ""
    left, right = compared["left"].strip(), compared["right"].strip()
    if told and told["value"] in (left, right):
        given, wanted = (left, right) if told["value"] == left else (right, left)
        if max(map(len, (given, wanted, told["call"]))) <= _MAX_VALUE_CHARS:
            return f"`{told['call']}` gives `{given}` and must give `{wanted}`"
    return "It gives another value than the test wants"


def _name(message: str) -> str:
    found = _EXCEPTION.match(message)
    return found["name"] if found else ""
