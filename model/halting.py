"""Which rows run each pass, and which state of a row is taken: depth, exits, halting means and routers
together.

The reference network and the server drive their passes with this; they differ in how they run the core.
Shapes: T rows of a batch, A rows of a pass, D the width of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from model.exits import ExitRequest, Exits
from model.parts import LoopParts

# Of a router's sigmoid: what an auxiliary loss teaches it to mean "chosen" (arXiv 2507.10524).
_CHOSEN_FROM = 0.5


class Halting:
    """The rows of one forward pass on their way through the core."""

    def __init__(
        self, parts: LoopParts, exits_T: Sequence[ExitRequest], depth_T: torch.Tensor, state_TD: torch.Tensor
    ) -> None:
        self._parts = parts
        config = parts.config
        if config.kv_policy == "first_then_shared":  # a row that left earlier would leave slots empty
            exits_T = [replace(one, min_depth=max(one.min_depth, config.num_shared_slots)) for one in exits_T]
        self._exits = Exits(exits_T, depth_T.device)
        self._input_TD = state_TD
        if config.gate == "token_choice":
            depth_T = depth_T.minimum(parts.chosen_depth(state_TD))
        self._mean = HaltingMean(exits_T, depth_T, state_TD) if config.gate == "act" else None
        # With a slot for each pass a row goes on after its state was taken, so that its slots are what
        # training had. Where later passes write none, there is nothing to go on for.
        self._leaves_at_exit = config.kv_policy != "depth_indexed" or config.later_attention == "shared"
        self._to_run_T = depth_T.clone()
        self._taken_TD: torch.Tensor | None = None
        self._has_stopped_T = torch.zeros_like(depth_T, dtype=torch.bool)
        self.depth_T = depth_T.clone()  # passes after which each row's state was taken

    @property
    def is_fixed(self) -> bool:
        """Return whether each row runs exactly its depth, whatever comes out."""
        return self._exits.is_idle and self._parts.config.gate not in ("act", "expert_choice")

    def rows(self, pass_index: int, state_TD: torch.Tensor) -> torch.Tensor:
        """Return the rows that run this pass, in the order of the batch (A,)."""
        rows_A = (self._to_run_T > pass_index).nonzero().squeeze(-1)
        if self._parts.config.gate != "expert_choice" or pass_index == 0:  # all run the first recursion
            return rows_A
        score_A = torch.sigmoid(self._parts.routers[pass_index](state_TD[rows_A])).squeeze(-1)
        dropped_A = rows_A[score_A < _CHOSEN_FROM]  # for good: later passes choose among the chosen
        self._to_run_T[dropped_A] = pass_index
        self.depth_T[dropped_A] = pass_index
        return rows_A[score_A >= _CHOSEN_FROM]

    def after_pass(
        self,
        pass_index: int,
        rows_A: torch.Tensor,
        before_AD: torch.Tensor,
        after_AD: torch.Tensor,
        read_out: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows' states after the pass (A, D), and the rows that stop with it (N,)."""
        if self._parts.config.gate == "expert_choice":
            weight_A = self._parts.routing_weight(before_AD, pass_index)
            after_AD = before_AD + weight_A[:, None] * after_AD
        hazard_A = self._parts.hazard(after_AD)
        if self._mean is not None:
            assert hazard_A is not None
            after_AD, stops_A = self._mean.add(pass_index, rows_A, before_AD, after_AD, hazard_A)
        elif self._exits.is_idle:
            return after_AD, rows_A[:0]
        else:
            stops_A = self._exits.after_pass(pass_index, rows_A, before_AD, after_AD, hazard_A, read_out)
        return after_AD, self._note(pass_index, rows_A, after_AD, stops_A & ~self._has_stopped_T[rows_A])

    def _note(
        self, pass_index: int, rows_A: torch.Tensor, after_AD: torch.Tensor, stops_A: torch.Tensor
    ) -> torch.Tensor:
        newly_N = rows_A[stops_A]
        self._has_stopped_T[newly_N] = True
        self.depth_T[newly_N] = pass_index + 1
        if self._leaves_at_exit:
            self._to_run_T[newly_N] = pass_index + 1
        else:
            if self._taken_TD is None:
                self._taken_TD = after_AD.new_zeros(len(self.depth_T), after_AD.shape[-1])
            self._taken_TD[newly_N] = after_AD[stops_A]
        return newly_N

    def result(self, state_TD: torch.Tensor) -> torch.Tensor:
        """Return the state that is taken of each row (T, D), given the last ones."""
        if self._mean is not None:
            return self._mean.sum_TD
        if self._parts.config.gate == "token_choice":
            weight_T = self._parts.chosen_weight(self._input_TD)
            return self._input_TD + weight_T[:, None] * state_TD
        if self._taken_TD is None:
            return state_TD
        return torch.where(self._has_stopped_T[:, None], self._taken_TD, state_TD)


class HaltingMean:
    """Adaptive computation time: the mean of a row's states, weighted by its probabilities to halt at each.

    The weights of a row are at least 0 and add up to 1: the pass that reaches the threshold, or the last one,
    gets what is left. A row that has halted keeps its state. A threshold of 1 lets no row halt before its
    depth. The probability of a pass is read from the state after it (arXiv 1603.08983); the listing in
    1807.03819 reads it from the state before.
    """

    def __init__(self, exits_T: Sequence[ExitRequest], depth_T: torch.Tensor, state_TD: torch.Tensor) -> None:
        device = state_TD.device
        may_halt_T = [one.rule == "act" and one.threshold < 1.0 for one in exits_T]
        threshold = [one.threshold if may else math.inf for one, may in zip(exits_T, may_halt_T, strict=True)]
        self._threshold_T = torch.tensor(threshold, device=device)
        self._min_depth_T = torch.tensor([one.min_depth for one in exits_T], device=device)
        self._depth_T = depth_T
        self._spent_T = torch.zeros(len(state_TD), device=device)
        self._is_halted_T = torch.zeros(len(state_TD), dtype=torch.bool, device=device)
        self.sum_TD = torch.zeros_like(state_TD)

    def add(
        self,
        pass_index: int,
        rows_A: torch.Tensor,
        before_AD: torch.Tensor,
        after_AD: torch.Tensor,
        halting_A: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows' states (A, D), those of halted rows as they were, and which rows halt now (A,)."""
        was_halted_A = self._is_halted_T[rows_A]
        spent_A = self._spent_T[rows_A]
        is_reached_A = (spent_A + halting_A >= self._threshold_T[rows_A]) & (
            pass_index + 1 >= self._min_depth_T[rows_A]
        )
        halts_A = (is_reached_A | (pass_index + 1 >= self._depth_T[rows_A])) & ~was_halted_A
        left_A = 1.0 - spent_A  # 0 for a row that has spent its weight but has to go on
        weight_A = torch.where(halts_A, left_A, halting_A.minimum(left_A)).masked_fill(was_halted_A, 0.0)
        self._spent_T[rows_A] = spent_A + weight_A
        self.sum_TD[rows_A] += weight_A[:, None].to(after_AD) * after_AD
        self._is_halted_T[rows_A] = was_halted_A | halts_A
        return torch.where(was_halted_A[:, None], before_AD, after_AD), halts_A
