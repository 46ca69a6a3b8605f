"""Asks the model whether a piece of a repository is what a query is about: yes or no, in one token.

Small models say yes too readily, to some pieces more than to others. So an answer can be compared with those
of the same model on the same piece where there is no query, or where its words stand in a random order. By
default it is not: it was no better for two and three times the calls (tests/benchmarks/context).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.context.descent.pieces import Kind, Piece, Pieces
from pipeline.core import Completion, Message, Prompt, Sampling
from pipeline.protocols import Generator
from pipeline.text import clip

PROMPT_VERSION = 3  # raise it with every change of the words below
Calibration = Literal["none", "empty", "shuffled", "both"]
CALLS_PER_PIECE: Mapping[Calibration, int] = {"none": 1, "empty": 2, "shuffled": 2, "both": 3}
_SYSTEM = "You find code in a repository. You answer with one word, Yes or No."
_ASK = "A piece of a repository:\n{piece}\n\nThe query:\n{query}\n\n{question}"
_IS, _CONTAINS = "Is this piece what the query is about?", "Does this piece contain what the query is about?"
# A chunk is not what a query is about, a function in it is: asked whether it were, a model says no.
_QUESTIONS: Mapping[Kind, str] = {"card": _IS, "chunk": _CONTAINS, "body": _IS}
_NO_QUERY = "(no query)"
_QUERY_CHARS = 1200  # of what is asked about each piece: a traceback would cost more than the piece
_NUM_ALTERNATIVES = 20  # of the first token: yes and no are hardly ever further down
_FLOOR = -30.0  # the logarithm of the probability of what was not among them


@dataclass(frozen=True, slots=True)
class Score:
    """How much more the model says yes to a piece than it would anyway, in nats; None: it did not answer."""

    value: float | None
    raw: float | None  # the log odds of yes, not calibrated
    num_prompt_tokens: int
    num_completion_tokens: int
    num_calls: int  # of the model, made for this score
    is_cached: bool = False  # from the memo: nothing was paid
    worker: str = ""  # on which it was asked, or lost
    error: str = ""  # why the model was not asked, or its answer did not arrive


class YesNoScorer:
    """Scores pieces of a repository against a query."""

    def __init__(
        self,
        generator: Generator,
        pieces: Pieces,
        *,
        calibration: Calibration = "none",
        recurrence_depth: int = 1,
    ) -> None:
        self._generator = generator
        self._pieces = pieces
        self._calibration = calibration
        self._sampling = Sampling(
            recurrence_depth=recurrence_depth, max_tokens=1, num_alternatives=_NUM_ALTERNATIVES
        )

    @property
    def calls_per_piece(self) -> int:
        """How many calls of the model one piece takes."""
        return CALLS_PER_PIECE[self._calibration]

    @property
    def num_parallel(self) -> int:
        """How many batches are worked on side by side."""
        return 1

    async def keys(self, query: str, pieces: Sequence[Piece]) -> list[str]:
        """Return for each piece a hash of all that its score depends on."""
        model = (await self._generator.info()).model
        return [
            score_key(
                self._pieces.text(piece),
                query,
                kind=piece.kind,
                model=model,
                recurrence_depth=self._sampling.recurrence_depth,
                calibration=self._calibration,
            )
            for piece in pieces
        ]

    async def scores(self, query: str, pieces: Sequence[Piece]) -> list[Score]:
        """Return a score for each piece, in order, all asked in one batch.

        Raises:
            InputError: a piece with its query is too long for the model.
            GeneratorError: the engine failed.
        """
        answers = [
            row[0] for row in await self._generator.generate(self._prompts(query, pieces), self._sampling)
        ]
        width = self.calls_per_piece
        return [_score(answers[start : start + width]) for start in range(0, len(answers), width)]

    async def count_tokens(self, query: str, pieces: Sequence[Piece]) -> int:
        """Return how many tokens the calls for these pieces take, answers included."""
        prompts = self._prompts(query, pieces)
        return sum(await self._generator.count_tokens(prompts)) + len(prompts) * self._sampling.max_tokens

    def _prompts(self, query: str, pieces: Sequence[Piece]) -> list[Prompt]:
        query = clip(query.strip(), _QUERY_CHARS)
        queries = [query, *self._references(query)]
        return [prompt(text, self._pieces.text(piece), piece.kind) for piece in pieces for text in queries]

    def _references(self, query: str) -> list[str]:
        empty = [_NO_QUERY] if self._calibration in ("empty", "both") else []
        return empty + ([shuffled(query)] if self._calibration in ("shuffled", "both") else [])


def prompt(query: str, piece: str, kind: Kind = "body") -> Prompt:
    """Return the question about a piece. The piece comes first: its part of the cache serves all queries."""
    text = _ASK.format(query=query, piece=piece.strip(), question=_QUESTIONS[kind])
    return Prompt((Message("system", _SYSTEM), Message("user", text)))


def score_key(
    text: str,
    query: str,
    *,
    kind: Kind = "body",
    model: str,
    recurrence_depth: int,
    calibration: Calibration,
    prompt_version: int = PROMPT_VERSION,
) -> str:
    """Return the key of a score: those with the same key are the same."""
    parts = [text, query, kind, model, recurrence_depth, calibration, prompt_version]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def shuffled(query: str) -> str:
    """Return the query's words in a random order, always the same."""
    words = query.split()
    random.Random(query).shuffle(words)  # noqa: S311 - no secret
    return " ".join(words)


def log_odds(completion: Completion) -> float | None:
    """Return the log odds of yes against no for the first token; None where neither was likely."""
    if not completion.steps:
        return None
    step = completion.steps[0]
    options = ((step.text, step.logprob), *step.alternatives)
    yes, no = (_mass(options, word) for word in ("yes", "no"))
    return None if yes == no == _FLOOR else yes - no


def _mass(options: Sequence[tuple[str, float]], word: str) -> float:
    chances = [math.exp(logprob) for text, logprob in options if text.strip().lower() == word]
    return max(math.log(sum(chances)), _FLOOR) if chances else _FLOOR


def _score(answers: Sequence[Completion]) -> Score:
    odds = [log_odds(answer) for answer in answers]
    known = [one for one in odds[1:] if one is not None]
    raw = odds[0]
    value = None if raw is None else raw - (sum(known) / len(known) if known else 0.0)
    return Score(
        value,
        raw,
        sum(answer.num_prompt_tokens for answer in answers),
        sum(answer.num_completion_tokens for answer in answers),
        len(answers),
    )
