"""Keeps what a forward pass of the reference network shows of its loops."""

from __future__ import annotations

import torch


class Recording:
    """A `Recorder` for one prompt of T tokens. Rows that do not run in a pass are NaN there."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self.start_TD = torch.empty(0)
        self.outputs: dict[tuple[int, int], torch.Tensor] = {}  # (pass, layer) -> (T, D)
        self.states: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # pass -> before and after, (T, D)
        self.attention_change: dict[tuple[int, int], float] = {}  # against the pass before
        self._attention: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # layer -> rows, probabilities

    def start(self, state_TD: torch.Tensor) -> None:
        """Keep the state before the first pass."""
        self.start_TD = state_TD

    def layer(
        self, pass_index: int, layer: int, rows_A: torch.Tensor, x_AD: torch.Tensor, probs_HAS: torch.Tensor
    ) -> None:
        """Keep a layer's output, and by how much its attention moved since the pass before."""
        self.outputs[pass_index, layer] = self._spread(rows_A, x_AD)
        if layer in self._attention:
            rows_before_B, before_HBS = self._attention[layer]
            in_both = torch.isin(rows_before_B, rows_A)  # rows leave, and none comes back
            distance_HA = 0.5 * (probs_HAS - before_HBS[:, in_both]).abs().sum(-1)
            self.attention_change[pass_index, layer] = float(distance_HA.mean())
        self._attention[layer] = (rows_A, probs_HAS)

    def loop(
        self, pass_index: int, rows_A: torch.Tensor, before_AD: torch.Tensor, after_AD: torch.Tensor
    ) -> None:
        """Keep the state before and after a pass."""
        self.states[pass_index] = (self._spread(rows_A, before_AD), self._spread(rows_A, after_AD))

    def _spread(self, rows_A: torch.Tensor, x_AD: torch.Tensor) -> torch.Tensor:
        spread_TD = x_AD.new_full((self._num_tokens, x_AD.shape[-1]), torch.nan)
        spread_TD[rows_A] = x_AD
        return spread_TD
