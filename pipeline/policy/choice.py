"""Chooses the next rung: the first that is left, or the one that promises most solved tasks per token.

The learned choice is Thompson sampling (Thompson 1933; Russo et al. 2018, section 3) over the arms: one draw
from each arm's Beta posterior of "this round solves the task", divided by the arm's mean cost. The draws
come from the task and the seed, so a run that is repeated with the same statistics chooses the same.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.config import Rung
from pipeline.policy.arms import ArmStats, Tally

# Before any evidence: one round in five solves, and it takes two observations to move that by half.
_PRIOR_SOLVED, _PRIOR_UNSOLVED = 0.4, 1.6
_PRIOR_ROUNDS = 2
# Completion tokens of one draft, as measured on the real cases with the default model.
_TOKENS_PER_DRAFT = {"line": 12, "insert": 24, "definition": 150}
_INTERVAL = 0.9


@dataclass(frozen=True, slots=True)
class Choice:
    """A rung, by its place in the ladder, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is believed of an arm."""

    solve_rate: float  # posterior mean
    low: float  # of the 90 % interval
    high: float
    tokens_per_round: float

    @property
    def solved_per_1000_tokens(self) -> float:
        """The order of the arms goes by this."""
        return 1000 * self.solve_rate / self.tokens_per_round


def choose_rung(
    ladder: Sequence[Rung],
    *,
    used: Collection[int],
    has_attempts: bool,
    stats: Sequence[ArmStats] = (),
    seed: str = "",
) -> Choice | None:
    """Return the next rung, or None at the ladder's end. Without `stats` the ladder's order holds.

    `has_attempts`: there is a failing candidate to show; a rung that feeds one back is not chosen without.
    """
    left = [i for i in range(len(ladder)) if i not in used]
    if not left:
        return None
    if not stats:
        return Choice(left[0], f"rung {left[0] + 1} of the ladder")
    ready = [i for i in left if has_attempts or not ladder[i].feedback] or left
    is_first = not used
    promises = {i: _drawn_promise(ladder[i], stats[i].tally(is_first=is_first), f"{seed}:{i}") for i in ready}
    best = max(promises, key=lambda i: (promises[i], -i))
    known = stats[best].tally(is_first=is_first)
    place = "opening" if is_first else "later"
    return Choice(
        best,
        f"learned: {promises[best]:.2f} solved per 1000 tokens drawn, after {known.num_solved} of "
        f"{known.num_tried} {place} rounds",
    )


def estimate(rung: Rung, tally: Tally) -> Estimate:
    """Return what is believed of an arm after these rounds."""
    from scipy.stats import beta  # takes a second to load, and no run needs it

    solved, unsolved = _posterior(tally)
    low, high = beta.interval(_INTERVAL, solved, unsolved)
    return Estimate(
        solve_rate=solved / (solved + unsolved),
        low=float(low),
        high=float(high),
        tokens_per_round=_tokens_per_round(rung, tally),
    )


def _drawn_promise(rung: Rung, tally: Tally, seed: str) -> float:
    # Not hash(): that differs between processes.
    source = random.Random(hashlib.sha256(seed.encode()).digest())  # noqa: S311 - no secret
    return 1000 * source.betavariate(*_posterior(tally)) / _tokens_per_round(rung, tally)


def _posterior(tally: Tally) -> tuple[float, float]:
    return _PRIOR_SOLVED + tally.num_solved, _PRIOR_UNSOLVED + tally.num_tried - tally.num_solved


def _tokens_per_round(rung: Rung, tally: Tally) -> float:
    """Return the mean cost of a round, drawn towards what its number of drafts lets expect."""
    expected = rung.num_candidates * _TOKENS_PER_DRAFT.get(rung.strategy, 150)
    return (expected * _PRIOR_ROUNDS + tally.num_tokens) / (_PRIOR_ROUNDS + tally.num_tried)
