"""The actions of tier M, and the grammar that lets a model name only what there is to name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verb = Literal["EXPAND", "READ", "GREP", "DONE"]
_MAX_DONE = 8  # places of an answer
_ACTION = re.compile(r"\s*(EXPAND|READ|GREP|DONE)\s+([A-Za-z0-9_.]+(?:\s+[A-Za-z0-9_.]+)*)\s*")


class ActionError(ValueError):
    """A text that is no action, or one that names nothing; the message is for the model."""


@dataclass(frozen=True, slots=True)
class Action:
    """What the model does next. Its operands are short ids, or the one word that is searched for."""

    verb: Verb
    operands: tuple[str, ...]


def grammar(folded: Sequence[str], readable: Sequence[str]) -> str:
    """Return EBNF (as vLLM's xgrammar takes it) of the actions that these ids allow.

    `folded` can be expanded, `readable` read and answered with.
    """
    rules = [f'expand ::= "EXPAND " ({_choice(folded)})'] if folded else []
    rules += (
        [
            f'read ::= "READ " ({_choice(readable)})',
            f'done ::= "DONE " place (" " place){{0,{_MAX_DONE - 1}}}',
            f"place ::= {_choice(readable)}",
        ]
        if readable
        else []
    )
    rules.append('grep ::= "GREP " [A-Za-z_] [A-Za-z0-9_]{1,39}')
    names = [rule.partition(" ")[0] for rule in rules if not rule.startswith("place")]
    return "\n".join([f"root ::= {' | '.join(names)}", *rules])


def parsed(text: str, folded: Sequence[str], readable: Sequence[str]) -> Action:
    """Return the action that a model wrote; a server without grammars may return anything.

    Raises:
        ActionError: it is none, or names what is not there.
    """
    found = _ACTION.fullmatch(text.partition("\n")[0])
    if not found:
        raise ActionError("write one line: EXPAND id, READ id, GREP word, or DONE ids")
    verb, operands = found[1], tuple(found[2].split())
    allowed = {"EXPAND": folded, "READ": readable, "DONE": readable}.get(verb)
    if verb != "DONE" and len(operands) != 1:
        raise ActionError(f"{verb} takes one operand")
    if allowed is not None and (unknown := [one for one in operands if one not in allowed]):
        raise ActionError(f"there is no {unknown[0]} to {verb}")
    return Action(verb, operands[:_MAX_DONE])  # type: ignore[arg-type]  # the pattern knows no other verb


def _choice(ids: Sequence[str]) -> str:
    return " | ".join(f'"{one}"' for one in ids)
