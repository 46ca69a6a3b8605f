"""Splices: a statement with a token changed to what the model nearly said there while it copied it.

A small model that is told that a statement is wrong mostly writes it again. Its greedy copy is of use all the
same: each step tells which other tokens were likely. The statement with one of them put in place is a draft
that costs no token. It is cloze-style repair (AlphaRepair, Xia and Zhang 2022) from one causal pass.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache

from pipeline.core import Completion
from pipeline.draft.branches import Branch
from pipeline.draft.lines import Span, replaced_line
from pipeline.draft.source import dedent
from pipeline.draft.syntax import first_definition

_FOREIGN = ("\ufffd", "<|", "```", "\n")  # half a character, a special token, the answer's end, another line
# How many tokens of the statement the new one takes the place of, and what that costs, as a logprob.
_TAKES = {1: 0.0, 0: -1.0, 2: -1.0}
_MAX_LOOKS = 20  # statements that are looked at for each that is wanted: most do not parse


def splices_of(begun: Branch, greedy: Completion, original: str) -> Iterator[Branch]:
    """Yield the statements that differ from `original` in a token; none where the answer is no copy of it.

    `begun`: the prompt, and the logprob that its splices start from.
    """
    if greedy.text.strip() != original.strip():
        return
    tokens = [step.text for step in greedy.steps]
    for i, step in enumerate(greedy.steps):
        before = "".join(tokens[:i])
        if len(before.strip()) >= len(original.strip()):
            return
        for token, logprob in step.alternatives:
            if token and not any(mark in token for mark in _FOREIGN):
                for num_taken, cost in _TAKES.items():
                    rest = "".join(tokens[i + num_taken :]).partition("\n```")[0]
                    yield Branch(begun.prompt_number, before + token + rest, begun.logprob + logprob + cost)


def programs(
    splices: Iterable[Branch],
    num: int,
    place: Callable[[int], tuple[str, Span]],
    tried: Collection[tuple[int, str]] = (),
) -> list[Branch]:
    """Return the `num` likeliest splices that make a definition which none before them made.

    `place`: the definition and the statement that a prompt asks for, by its number.
    """
    known: set[tuple[str, str]] = set()  # the definition that is changed, what it became or was
    found: list[Branch] = []
    in_order = sorted(splices, key=lambda s: (-s.logprob, s.prompt_number, s.text))
    for splice in in_order[: _MAX_LOOKS * num]:
        definition, span = place(splice.prompt_number)
        known.add((definition, _program(definition)))
        mark = (definition, _program(replaced_line(definition, span, splice.text, truncated=False)))
        if mark[1] and mark not in known and (splice.prompt_number, splice.text) not in tried:
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
