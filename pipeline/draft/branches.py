"""Branches of a greedy answer: where else it could have gone, likeliest first.

Drawn answers of a small model are mostly the greedy one again, or each other. A branch is the greedy answer
up to some token, then another token there; what follows is drafted greedily. So every draft differs from the
others by what the model itself holds likeliest, and none is drawn twice. The idea is CoT-decoding's (Wang and
Zhou 2024), taken to every step of an answer in place of the first alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.core import Completion

NUM_ALTERNATIVES = 12  # for each step; a completion that begins less likely than these is hardly ever taken
_NO_TEXT = ("\ufffd", "<|")  # half a character; a special token


@dataclass(frozen=True, slots=True)
class Branch:
    """How an answer of one prompt begins."""

    prompt_number: int
    text: str
    logprob: float  # of the text


def branches_of(prompt_number: int, greedy: Completion, original: str) -> Iterator[Branch]:
    """Yield the beginnings that leave the greedy answer, at each of its steps.

    Left out is what leads back: another way to spell the greedy answer, or the original that the answer is
    to replace.
    """
    known = (greedy.text.lstrip(), original.lstrip())
    text, logprob = "", 0.0
    for step in greedy.steps:
        for token, its_logprob in step.alternatives:
            begun = (text + token).lstrip()
            is_text = begun and not any(mark in token for mark in _NO_TEXT)
            if is_text and not any(whole.startswith(begun) for whole in known):
                yield Branch(prompt_number, text + token, logprob + its_logprob)
        text, logprob = text + step.text, logprob + step.logprob


def likeliest(branches: Iterator[Branch], num: int) -> list[Branch]:
    """Return the `num` likeliest branches, whatever their prompts."""
    return sorted(branches, key=lambda branch: (-branch.logprob, branch.prompt_number, branch.text))[:num]
