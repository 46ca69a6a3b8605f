"""The training-free loop of a dense checkpoint: which layers repeat, by which rule, how often. No torch here.

In the published recipe (arXiv 2605.23872) a window of layers in the middle of an ordinary checkpoint runs
`depth` times instead of once. With g the window and x_0 its input, each pass is a damped sub-step

    x_{k+1} = x_k + step * (g(x_k) - x_k),    step = 1/depth

so that the passes together cover the distance that one ordinary pass covers, and the result is pulled towards
the ordinary one: out = anchor_weight * g(x_0) + (1 - anchor_weight) * x_depth. Depth 1 is the plain model.

Where it differs from the published recipe: there, later tokens always read the keys and values of the plain
pass, while tokens of one prefill chunk read each other's iterated ones, so that prefill and decode are two
functions and the answer depends on chunking, prefix hits and preemption. Here the KV policy is depth_indexed:
pass k of a layer has a KV slot of its own, written by pass k and read by pass k of later tokens. Prefill,
chunked prefill, decode, prefix hit and recomputation after preemption are then one and the same function. The
price: (max_recurrence_depth - 1) more KV slots for each layer of the window, and the published accuracy
numbers say nothing about this variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from model.config import StepRule, read_settings
from model.exceptions import LoopConfigError

# The paper's rule. Wider windows lose accuracy (Qwen3-1.7B: 6 layers -0.8 points, all 28 -27.7), and 7 of 9
# architectures had their best window centred at 0.45 to 0.60 of the layers.
_WINDOW_NUM_LAYERS = 4
_WINDOW_CENTRE = 0.48


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """The settings of one loop. Raises LoopConfigError where they contradict each other."""

    window_start: int  # first looped layer
    window_stop: int  # one past the last
    step_rule: StepRule = "damped_anchored"
    anchor_weight: float = 0.5  # of the plain pass in the result; read by damped_anchored alone
    max_recurrence_depth: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.window_start < self.window_stop:
            raise LoopConfigError(f"the window {self.window_start}..{self.window_stop} holds no layer")
        if self.step_rule not in get_args(StepRule):
            raise LoopConfigError(
                f"step_rule {self.step_rule!r} is none of {', '.join(get_args(StepRule))}",
            )
        if not 0.0 <= self.anchor_weight <= 1.0:
            raise LoopConfigError(f"anchor_weight {self.anchor_weight} is outside 0..1")
        if self.max_recurrence_depth < 1:
            raise LoopConfigError(f"max_recurrence_depth {self.max_recurrence_depth} is below 1")

    @classmethod
    def for_num_layers(cls, num_layers: int, *, max_recurrence_depth: int = 4) -> LoopConfig:
        """Return the loop for a plain checkpoint: a window of 4 layers, centred at 0.48 of its layers."""
        width = min(_WINDOW_NUM_LAYERS, num_layers)
        start = round(_WINDOW_CENTRE * num_layers - (width - 1) / 2)
        start = min(max(start, 0), num_layers - width)
        return cls(window_start=start, window_stop=start + width, max_recurrence_depth=max_recurrence_depth)

    @property
    def num_window_layers(self) -> int:
        """Number of layers that repeat."""
        return self.window_stop - self.window_start

    def to_json_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json_dict(cls, values: Mapping[str, Any]) -> LoopConfig:
        """Return the settings that `to_json_dict` wrote.

        Raises:
            LoopConfigError: a key is missing or unknown, or a value is out of range.
        """
        return read_settings(cls, values)
