"""When a row of a batch stops looping before its depth: the published rules, row by row, for mixed batches.

Shapes: T rows of a batch, A of them active, D the width of the state, V the vocabulary.
Sources: hazard is Ouro's Q-exit (arXiv 2510.25741), latent, KL and argmax are those of Huginn's code (arXiv
2502.05171), where the state's change is measured against the state's length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from model.config import ExitRule

RULES: tuple[ExitRule, ...] = get_args(ExitRule)
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class ExitRequest:
    """What one request asks for: a rule, its threshold, and the passes that are run in any case.

    A row stops after the first pass in which
        hazard: the probability to have stopped by now reaches the threshold; 1 never does
        act: the halting probabilities add up to the threshold; 1 never does
        latent: the state changed by less than this share of its length; 0 never
        kl: the read-out moved by less than this many nats; 0 never
        argmax: the likeliest token has been the same for so many passes after its first
    """

    rule: ExitRule = "none"
    threshold: float = 1.0
    min_depth: int = 1


class Exits:
    """Decides after each pass which rows stop, and remembers what the rules compare with.

    Rows with different rules and thresholds may stand in one batch.
    """

    def __init__(self, requests_T: Sequence[ExitRequest], device: torch.device | None = None) -> None:
        self._rules = {one.rule for one in requests_T}
        if self.is_idle:
            return
        num_rows = len(requests_T)
        self._rule_T = torch.tensor([RULES.index(one.rule) for one in requests_T], device=device)
        self._threshold_T = torch.tensor([one.threshold for one in requests_T], device=device)
        self._min_depth_T = torch.tensor([one.min_depth for one in requests_T], device=device)
        self._survival_T = torch.ones(num_rows, device=device)
        self._streak_T = torch.zeros(num_rows, dtype=torch.long, device=device)
        self._log_probs_TV: torch.Tensor | None = None

    @property
    def is_idle(self) -> bool:
        """Return whether no row can stop early."""
        return self._rules <= {"none"}

    def after_pass(
        self,
        pass_index: int,
        rows_A: torch.Tensor,
        before_AD: torch.Tensor,
        after_AD: torch.Tensor,
        hazard_A: torch.Tensor | None,
        read_out: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return which of the rows stop after this pass, bool (A,).

        Args:
            pass_index: from 0.
            rows_A: their places in the batch.
            before_AD: the state before the pass.
            after_AD: the state after it, as the read-out would take it.
            hazard_A: the gate's probability to stop now, where there is a gate.
            read_out: state (A, D) to logits (A, V), where a rule may ask for them.
        """
        stops_A = torch.zeros(len(rows_A), dtype=torch.bool, device=rows_A.device)
        if self.is_idle:
            return stops_A
        if "latent" in self._rules:
            is_still_A = relative_change(before_AD, after_AD) < self._threshold_T[rows_A]
            stops_A |= self._has_rule(rows_A, "latent") & is_still_A
        if "hazard" in self._rules:
            assert hazard_A is not None, "hazard exits need a gate"
            stops_A |= self._has_rule(rows_A, "hazard") & self._has_halted(rows_A, hazard_A)
        reads_A = self._has_rule(rows_A, "kl") | self._has_rule(rows_A, "argmax")
        if bool(self._rules & {"kl", "argmax"}) and bool(reads_A.any()):
            assert read_out is not None, "this rule needs logits between passes"
            stops_A[reads_A] = self._is_settled(rows_A[reads_A], read_out(after_AD[reads_A]))
        return stops_A & (pass_index + 1 >= self._min_depth_T[rows_A])

    def _has_rule(self, rows_A: torch.Tensor, rule: ExitRule) -> torch.Tensor:
        return self._rule_T[rows_A] == RULES.index(rule)

    def _has_halted(self, rows_A: torch.Tensor, hazard_A: torch.Tensor) -> torch.Tensor:
        self._survival_T[rows_A] *= 1.0 - hazard_A.float()
        threshold_A = self._threshold_T[rows_A]
        # A threshold of 1 means all passes, also where the product of survivals rounds to 0.
        return (1.0 - self._survival_T[rows_A] >= threshold_A) & (threshold_A < 1.0)

    def _is_settled(self, rows_A: torch.Tensor, logits_AV: torch.Tensor) -> torch.Tensor:
        """Compare with the row's last read-out; the first one has none."""
        log_probs_AV = logits_AV.float().log_softmax(-1)
        if self._log_probs_TV is None:
            self._log_probs_TV = log_probs_AV.new_full((len(self._rule_T), log_probs_AV.shape[-1]), torch.nan)
        before_AV = self._log_probs_TV[rows_A]
        self._log_probs_TV[rows_A] = log_probs_AV
        threshold_A = self._threshold_T[rows_A]
        kl_A = (log_probs_AV.exp() * (log_probs_AV - before_AV)).sum(-1)  # NaN, and so not below, at first
        is_same_A = (log_probs_AV.argmax(-1) == before_AV.argmax(-1)) & ~before_AV[:, 0].isnan()
        self._streak_T[rows_A] = torch.where(is_same_A, self._streak_T[rows_A] + 1, 0)
        is_stable_A = self._streak_T[rows_A] >= threshold_A
        return torch.where(self._has_rule(rows_A, "kl"), kl_A < threshold_A, is_stable_A)


def relative_change(before_AD: torch.Tensor, after_AD: torch.Tensor) -> torch.Tensor:
    """Return |after - before| / |after| of each row (A,), in float32."""
    change_A = (after_AD.float() - before_AD.float()).norm(dim=-1)
    return change_A / after_AD.float().norm(dim=-1).clamp_min(_TINY)
