"""Branches of a greedy answer: where else it could have gone, likeliest first.

Drawn answers of a small model are mostly the greedy one again, or each other. A branch is the greedy answer
up to some token, then another token there; what follows is drafted greedily, and may be branched again: a
best-first search over answers by their likelihood. So every draft differs from the others, and none is drawn
twice. The idea is CoT-decoding's (Wang and Zhou 2024), which branches at the first step alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from pipeline.core import Completion

NUM_ALTERNATIVES = 12  # for each step; a completion that begins less likely than these is hardly ever taken
_NO_TEXT = ("\ufffd", "<|", "```")  # half a character; a special token; the answer's end, in other tokens


@dataclass(frozen=True, slots=True)
class Branch:
    """How an answer of one prompt begins; with nothing, as greedy answers do, in the beginning."""

    prompt_number: int
    text: str = ""
    logprob: float = 0.0  # of the text, natural logarithm; and of the place, where a prior says more of it


class Frontier:
    """The branches of a round's prompts that are not drafted yet."""

    def __init__(self, tried: Collection[tuple[int, str]]) -> None:
        """`tried`: beginnings that need not be drafted again, by prompt."""
        self._seen = set(tried)
        self._open: list[tuple[float, int, str]] = []  # a heap, likeliest first

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, branches: Iterable[Branch]) -> None:
        """Take in what was not seen before."""
        for branch in branches:
            if (branch.prompt_number, branch.text) not in self._seen:
                self._seen.add((branch.prompt_number, branch.text))
                heappush(self._open, (-branch.logprob, branch.prompt_number, branch.text))

    def take(self, num: int) -> list[Branch]:
        """Return the `num` likeliest branches, whatever their prompts; they are open no more."""
        taken = [heappop(self._open) for _ in range(min(num, len(self._open)))]
        return [Branch(number, text, -cost) for cost, number, text in taken]


def branches_of(begun: Branch, answer: Completion, original: str) -> Iterator[Branch]:
    """Yield the beginnings that leave the greedy answer to a beginning, at each of its steps.

    `answer`: whole, with the steps behind the beginning.

    Left out is what leads back: another way to spell the answer, or the original that it is to replace.
    """
    known = (answer.text.lstrip(), original.lstrip())
    text, logprob = begun.text, begun.logprob
    for step in answer.steps:
        for token, its_logprob in step.alternatives:
            other = (text + token).lstrip()
            is_text = other and not any(mark in other for mark in _NO_TEXT)
            if is_text and not any(whole.startswith(other) for whole in known):
                yield Branch(begun.prompt_number, text + token, logprob + its_logprob)
        text, logprob = text + step.text, logprob + step.logprob
