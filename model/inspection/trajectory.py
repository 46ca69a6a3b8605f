"""Where the loops of one token lead: a fixed point, a cycle, or on.

Each layer of a looped core has a path of its own, its output after each loop; in a settled model each path
ends in a fixed point and the core as a whole runs round them (arXiv 2604.11791).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["fixed point", "cycle", "converging", "moving"]
_STILL = 0.01  # of the point's length: a smaller last step is none
_RETURNS = 0.1  # of a cycle's width: how close it comes to where it was a period ago


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The path of one layer's output for the last token, by loop."""

    layer: int
    points: tuple[tuple[float, float], ...]  # in the plane of the two largest components of all layers' paths
    kind: Kind
    period: int | None  # loops, of a cycle
    last_step: float  # of the point's length


def trajectories(paths: dict[int, np.ndarray]) -> tuple[tuple[Trajectory, ...], float]:
    """Return each layer's trajectory, and the share of all variance that the plane shows.

    `paths`: by layer, the outputs of R loops (R, D).
    """
    every = np.concatenate(list(paths.values())).astype(np.float64)
    centre_D = every.mean(0)
    _, lengths, axes = np.linalg.svd(every - centre_D, full_matrices=False)
    plane_2D = np.zeros((2, every.shape[1]))
    plane_2D[: min(2, len(axes))] = axes[:2]
    total = float((lengths**2).sum())
    found = []
    for layer, path_RD in paths.items():
        points_R2 = (path_RD - centre_D) @ plane_2D.T
        kind, period = classify(path_RD)
        found.append(Trajectory(layer, tuple(map(_pair, points_R2)), kind, period, _last_step(path_RD)))
    return tuple(found), float((lengths[:2] ** 2).sum()) / total if total else 1.0


def classify(path_RD: np.ndarray) -> tuple[Kind, int | None]:
    """Return what a path (R, D) comes to, and the period of a cycle in loops.

    A cycle needs two rounds to be seen. What is neither still nor round is "converging" if its last step is
    at most half of its first.
    """
    if _last_step(path_RD) < _STILL:
        return "fixed point", None
    for period in range(2, len(path_RD) // 2 + 1):
        last_PD, before_PD = path_RD[-period:], path_RD[-2 * period : -period]
        width = max(float(np.linalg.norm(one - other)) for one in last_PD for other in last_PD)
        if np.linalg.norm(last_PD - before_PD, axis=1).max() < _RETURNS * width:
            return "cycle", period
    steps = np.linalg.norm(np.diff(path_RD, axis=0), axis=1)
    return ("converging" if len(steps) > 1 and steps[-1] <= 0.5 * steps[0] else "moving"), None


def _last_step(path_RD: np.ndarray) -> float:
    if len(path_RD) < 2:
        return float("inf")
    length = max(float(np.linalg.norm(path_RD[-1])), 1e-12)
    return float(np.linalg.norm(path_RD[-1] - path_RD[-2])) / length


def _pair(point: Sequence[float]) -> tuple[float, float]:
    return float(point[0]), float(point[1])
