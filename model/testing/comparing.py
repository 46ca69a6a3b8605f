"""What the checks of the conformance suite share: prompts, differences, findings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.testing.under_test import LoopedModel

NUM_TOKENS = 9


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check came to. `difference` is the largest between two logits that it compared, where it did."""

    check: str
    difference: float | None = None
    skipped: str = ""  # why the check does not apply


def whole(model: LoopedModel, prompt: Sequence[int], depth: int) -> torch.Tensor:
    """Return the logits (T, V) of a prompt that is taken at once."""
    return model.begin(len(prompt)).feed(prompt, depth).logits_TV


def prompt_of(model: LoopedModel, seed: int) -> list[int]:
    """Return a prompt of `NUM_TOKENS` random tokens."""
    draw = random.Random(seed)  # noqa: S311
    return [draw.randrange(model.claims.vocab_size) for _ in range(NUM_TOKENS)]


def depths_of(model: LoopedModel) -> range:
    """Return every depth that a request may ask for."""
    return range(1, model.claims.max_depth + 1)


def difference_of(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference between two logits."""
    return float((one - other).abs().max())


def require(holds: bool, check: str, message: str) -> None:
    """Raise AssertionError, the check's name first, where something does not hold."""
    if not holds:
        raise AssertionError(f"{check}: {message}")
