"""Searches the window and the number of steps of a training-free loop by whether tasks are solved.

Never by perplexity: for this method held-out loss and task outcome point in opposite directions (the authors'
notes on arXiv 2605.23872). Candidates are halved on growing sets of tasks; the last one is then measured on
tasks that the search has not seen, in pairs with the same engine at depth 1. No torch here.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from model.exceptions import LoopConfigError
from model.loop import LoopConfig

CENTRES = (0.35, 0.67)  # of the layers: where published windows that helped were centred
WIDTHS = range(2, 7)
_NUM_RESAMPLES = 9_999
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Candidate:
    """A loop at a depth."""

    loop: LoopConfig
    depth: int

    @property
    def name(self) -> str:
        """Return what it is called in results: "layers 10-13, depth 3" (both ends looped), or "plain"."""
        if self.depth == 1:
            return "plain"
        rule = f"{self.loop.step_rule} {self.loop.anchor_weight:g}"
        return f"layers {self.loop.window_start}-{self.loop.window_stop - 1}, depth {self.depth}, {rule}"


Evaluate = Callable[[Candidate, str], float]  # (candidate, task) -> share of attempts that solved it, 0 to 1


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean over tasks of solved minus solved at depth 1, with its 95 % bootstrap interval over tasks.

    Both ends are nan for fewer than two tasks.
    """

    value: float
    low: float
    high: float
    num_tasks: int


@dataclass(frozen=True, slots=True)
class Round:
    """One halving: what each remaining candidate gained on the first tasks."""

    num_tasks: int
    gains: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    best: Candidate
    confirmed: Gain  # on tasks that the search did not see
    plain_solved: float  # mean of depth 1 on the same tasks
    rounds: tuple[Round, ...]

    @property
    def is_gain(self) -> bool:
        """Return whether the interval lies above 0. Where it does not, depth 1 is the setting to use."""
        return self.confirmed.low > 0


def candidates(
    num_layers: int,
    *,
    widths: Iterable[int] = WIDTHS,
    depths: Iterable[int] = (2, 3),
    stride: int = 2,
    base: LoopConfig | None = None,
) -> list[Candidate]:
    """Return the windows of these widths centred within `CENTRES`, every `stride` layers, at these depths.

    `base` says the step rule and its anchor.

    Raises:
        LoopConfigError: there is none.
    """
    base = base or LoopConfig.for_num_layers(num_layers)
    low, high = (share * num_layers for share in CENTRES)
    found = [
        Candidate(
            replace(base, window_start=start, window_stop=start + width, max_recurrence_depth=max(depth, 2)),
            depth,
        )
        for depth in depths
        for width in widths
        for start in range(math.ceil(max(low - (width - 1) / 2, 0)), num_layers - width + 1, stride)
        if start + (width - 1) / 2 <= high and depth > 1
    ]
    if not found:
        raise LoopConfigError(f"{num_layers} layers have no window of these widths and depths")
    return found


@dataclass(slots=True)
class Outcomes:
    """Outcomes in a file of JSON lines, one each, so that a search goes on where it was interrupted."""

    path: Path
    evaluator: str  # what they were measured with; others' outcomes are not mixed in
    _known: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what is there.

        Raises:
            LoopConfigError: the file is another evaluator's, or no file of outcomes.
        """
        if not self.path.exists():
            self._append({"evaluator": self.evaluator})
            return
        try:
            head, *lines = [json.loads(line) for line in _whole_lines(self.path)]
            if head["evaluator"] != self.evaluator:
                raise LoopConfigError(
                    f"{self.path} holds outcomes of {head['evaluator']!r}", hint="Name another results file."
                )
            self._known = {(line["candidate"], line["task"]): line["outcome"] for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, LoopConfigError):
                raise
            raise LoopConfigError(f"{self.path} is no file of outcomes: {error}") from error

    def get(self, candidate: Candidate, task: str, evaluate: Evaluate) -> float:
        """Return the outcome of a task, measured now if it is not known."""
        key = (candidate.name, task)
        if key not in self._known:
            outcome = float(evaluate(candidate, task))
            self._append({"candidate": candidate.name, "task": task, "outcome": outcome})
            self._known[key] = outcome
        return self._known[key]

    def _append(self, line: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def search(
    found: Sequence[Candidate],
    tasks: Sequence[str],
    evaluate: Evaluate,
    outcomes: Outcomes,
    *,
    seed: int = 0,
    num_first_tasks: int = 8,
    on_round: Callable[[Round], None] = lambda _: None,
) -> Found:
    """Halve the candidates on growing sets of one half of the tasks; measure the last on the other half.

    Args:
        found: the candidates.
        tasks: their names; drawn into halves by `seed`.
        evaluate: solves a task with a candidate; raises where it cannot tell, which ends the search.
        outcomes: what is known already, and where new ones go.
        seed: of the halves and of the bootstrap.
        num_first_tasks: tasks of the first round; each round doubles them.
        on_round: is told of each round.

    Raises:
        LoopConfigError: fewer than four tasks, or no candidate.
    """
    if len(set(tasks)) < 4 or not found:
        raise LoopConfigError("a search needs candidates and at least four tasks of different names")
    shuffled = sorted(set(tasks))
    random.Random(seed).shuffle(shuffled)  # noqa: S311
    half = len(shuffled) // 2
    seen, unseen = shuffled[:half], shuffled[half:]
    plain = replace(found[0], depth=1)

    def gains_on(candidate: Candidate, names: Sequence[str]) -> list[float]:
        return [
            outcomes.get(candidate, name, evaluate) - outcomes.get(plain, name, evaluate) for name in names
        ]

    left, num_tasks, rounds = list(found), min(num_first_tasks, half), []
    while len(left) > 1:
        gain = {one.name: float(np.mean(gains_on(one, seen[:num_tasks]))) for one in left}
        rounds.append(Round(num_tasks, gain))
        on_round(rounds[-1])
        left.sort(key=lambda one: -gain[one.name])  # stable: the earlier candidate wins a tie
        left = left[: 1 if num_tasks == half else (len(left) + 1) // 2]
        num_tasks = min(2 * num_tasks, half)
    confirmed = bootstrap(gains_on(left[0], unseen), seed=seed)
    solved = float(np.mean([outcomes.get(plain, name, evaluate) for name in unseen]))
    return Found(left[0], confirmed, solved, tuple(rounds))


def bootstrap(gains: Sequence[float], *, seed: int = 0) -> Gain:
    """Return the mean with its percentile interval; tasks are what is drawn again."""
    values = np.asarray(gains, dtype=float)
    if len(values) < 2:
        return Gain(float(values.mean()), math.nan, math.nan, len(values))
    draws = np.random.default_rng(seed).integers(len(values), size=(_NUM_RESAMPLES, len(values)))
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(values[draws].mean(axis=1), [tail, 100 - tail])
    return Gain(float(values.mean()), float(low), float(high), len(values))


def _whole_lines(path: Path) -> list[str]:
    """Return the lines; the last one is dropped, and cut off, where a write was interrupted."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return whole.splitlines()
