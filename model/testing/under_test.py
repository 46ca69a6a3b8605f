"""A looped decoder as the conformance suite sees it: what it claims, and what it can be asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from model.config import ExitRule
from model.exits import ExitRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a model says of itself: True is checked to hold, False is checked not to, None is measured."""

    vocab_size: int
    max_depth: int
    is_chunk_invariant: bool  # the same function however a prompt is cut: depth-indexed slots, or shared ones
    is_depth_nested: bool | None  # keys of a deep run serve a shallower one: no coda, plain steps, own slots
    exit_rules: tuple[ExitRule, ...] = ()
    min_exit_depth: int = 1  # passes before which no rule may stop a row


@dataclass(frozen=True, slots=True)
class Fed:
    """What a model says after some tokens."""

    logits_TV: torch.Tensor
    depth_T: tuple[int, ...]  # passes after which each token's state was taken


class LoopedSequence(Protocol):
    """One sequence over its cache."""

    def feed(
        self, token_ids: Sequence[int], depth: int | Sequence[int], exit_request: ExitRequest | None = None
    ) -> Fed:
        """Take the next tokens at a depth, for all or for each; with no exit request, none stops early."""

    def keep_passes(self, depth: int) -> None:
        """Forget the keys and values of all but the first `depth` passes."""


class LoopedModel(Protocol):
    """The model under test."""

    claims: Claims

    def begin(self, max_tokens: int) -> LoopedSequence:
        """Begin a sequence of at most so many tokens."""

    def plain(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        """Return the logits (T, V) of the unlooped network, made without any loop machinery, if it exists."""

    def batch(self, prompts: Sequence[Sequence[int]], depths: Sequence[int]) -> list[torch.Tensor]:
        """Return each prompt's logits (T, V), run together in one batch, each prompt at its depth."""
