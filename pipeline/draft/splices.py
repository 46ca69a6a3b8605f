"""Splices: a statement with a token changed to what the model nearly said there while it copied it.

A small model that is told that a statement is wrong mostly writes it again. Its greedy copy is of use all the
same: each step tells which other tokens were likely. The statement with one of them put in place is a draft
that costs no token. It is cloze-style repair (AlphaRepair, Xia and Zhang 2022) from causal passes. Where the
answer leaves the statement, another one is begun behind that place, until the whole statement is spelled.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from pipeline.core import Step
from pipeline.draft.branches import Branch
from pipeline.draft.imports import unbound_names
from pipeline.draft.lines import Span, replaced_line
from pipeline.draft.source import dedent
from pipeline.draft.syntax import first_definition

_FOREIGN = ("\ufffd", "<|", "```", "\n")  # half a character, a special token, the answer's end, another line
# How many tokens of the statement the new one takes the place of, and what that costs, as a logprob.
_TAKES = {1: 0.0, 0: -1.0, 2: -1.0}
_MAX_LOOKS = 20  # statements that are looked at for each that is wanted: most do not parse
_PIECE = re.compile(r"\s*(?:\w+|\S)")  # about a token, where the model did not think of the right one


class Place(NamedTuple):
    """The statement that a prompt asks for, and what it stands in."""

    definition: str
    span: Span
    file: bytes


class Spelling:
    """The steps in which a model spells a statement again, as far as its answers told them."""

    def __init__(self, statement: str) -> None:
        """`statement`: the answer that repeats it, from its first character."""
        self.text = ""
        self.steps: list[Step] = []
        self._statement = statement.rstrip()

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the statement is left to spell."""
        return not self.rest

    @property
    def rest(self) -> str:
        """What is left to spell."""
        return self._statement.lstrip()[len(self.text.lstrip()) :] if self.text else self._statement

    def follow(self, steps: Sequence[Step]) -> None:
        """Take in the steps of an answer that begins behind the text, up to and with the one that leaves it.

        That one is turned back: what the answer said there was likely, too.
        """
        for step in steps:
            if self.is_whole:
                return
            if not self._goes_on(step.text):
                self._add(self._turned_back(step))
                return
            self._add(step)

    def _turned_back(self, step: Step) -> Step:
        others = ((step.text, step.logprob), *step.alternatives)
        right = [(token, logprob) for token, logprob in step.alternatives if self._goes_on(token)]
        piece = _PIECE.match(self.rest)
        assert piece is not None  # the statement ends in no space
        token, logprob = max(right, key=lambda r: len(r[0]), default=(piece[0], 0.0))
        return Step(token, logprob, tuple(other for other in others if other[0] != token))

    def _goes_on(self, token: str) -> bool:
        # The space that begins an answer may be left out; what ends it is no part of the statement.
        text, statement = (self.text + token).lstrip(), self._statement.lstrip()
        return bool(token) and (statement.startswith(text) or text.rstrip() == statement)

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        self.text += step.text


def splices_of(begun: Branch, spelling: Spelling) -> Iterator[Branch]:
    """Yield the statements that differ from the one that was spelled in a token, as far as it was.

    `begun`: the prompt, and the logprob that its splices start from.
    """
    tokens = [step.text for step in spelling.steps]
    for i, step in enumerate(spelling.steps):
        before = "".join(tokens[:i])
        for token, logprob in step.alternatives:
            if token and not any(mark in token for mark in _FOREIGN):
                for num_taken, cost in _TAKES.items():
                    if i + num_taken <= len(tokens):
                        behind = "".join(tokens[i + num_taken :]) + spelling.rest
                        text = (before + token + behind).rstrip()
                        yield Branch(begun.prompt_number, text, begun.logprob + logprob + cost)


def programs(
    splices: Iterable[Branch],
    num: int,
    places: Mapping[int, Place],
    tried: Collection[tuple[int, str]] = (),
) -> list[Branch]:
    """Return the `num` likeliest splices that make a definition which none before them made.

    Half of a word in place of a token often makes a name that there is not: such a splice is none.
    `places`: what each prompt asks for, by its number.
    """
    known: set[tuple[str, str]] = set()  # the definition that is changed, what it became or was
    found: list[Branch] = []
    in_order = sorted(splices, key=lambda s: (-s.logprob, s.prompt_number, s.text))
    for splice in in_order[: _MAX_LOOKS * num]:
        definition, span, file = places[splice.prompt_number]
        known.add((definition, _program(definition)))
        spliced = replaced_line(definition, span, splice.text, truncated=False)
        mark = (definition, _program(spliced))
        is_new = mark[1] and mark not in known and (splice.prompt_number, splice.text) not in tried
        if is_new and not unbound_names(spliced, file):
            found.append(splice)
        known.add(mark)
        if len(found) == num:
            break
    return found


@lru_cache(maxsize=64)
def _program(definition: str) -> str:
    """Return the definition without layout and comments, or nothing where it does not parse."""
    node = first_definition(dedent(definition))
    return ast.dump(node) if node else ""
