"""The passes of a batch through the core: which rows run, what attention sees of them, where their keys go.

Shapes: T rows of the batch, A rows of a pass, D the residual's width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from model.halting import Halting
from model.vllm_plugin.attention import KeysAndValues, LoopedAttention
from model.vllm_plugin.batch import LoopBatch, only_rows
from model.vllm_plugin.block import joined
from model.vllm_plugin.reports import LoopTrace

if TYPE_CHECKING:
    from model.vllm_plugin.looped import LoopedForCausalLM


class Passes:
    """The passes of one batch through the core."""

    def __init__(
        self,
        model: LoopedForCausalLM,
        positions_T: torch.Tensor,
        ids_T: torch.Tensor | None,
        batch: LoopBatch,
    ) -> None:
        self.model, self.config, self.parts = model, model.loop, model.model.parts
        self.positions_T, self.ids_T, self.batch = positions_T, ids_T, batch
        self.num_rows = len(positions_T)
        # On the host, so that the usual case, a depth for each request and no exits, waits for no device.
        self.host_depth_T = batch.depth_of_rows(self.num_rows)
        self.depth_T = torch.from_numpy(self.host_depth_T).to(positions_T.device)
        self.trace = LoopTrace(batch.deepest, self.num_rows) if batch.wants_trace else None

    def window(
        self,
        layers: list[int],
        state_TD: torch.Tensor,
        input_TD: torch.Tensor,
        natural_TD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the rows after all of their passes through these layers (T, D).

        `natural_TD` is what the layers make of the first state, where that is known.
        """
        exits_T = self.batch.exits_of_rows(self.num_rows)
        halting = Halting(self.parts, exits_T, self.depth_T, state_TD)
        restored: list[KeysAndValues] = []
        for k in range(self.batch.deepest):
            rows_A = self._fixed_rows(k) if halting.is_fixed else halting.rows(k, state_TD).cpu().numpy()
            if len(rows_A) == 0:
                break
            index_A = None if len(rows_A) == self.num_rows else torch.from_numpy(rows_A).to(state_TD.device)
            before_AD = self._rows_of(state_TD, index_A)
            with only_rows(self.batch, rows_A, self.num_rows) as is_gathered:
                if k == 0 and natural_TD is not None:
                    moved_AD = self._rows_of(natural_TD, index_A)
                else:
                    moved_AD = self._pass(layers, k, state_TD, input_TD, index_A, is_gathered)
                natural_TD = moved_AD if natural_TD is None else natural_TD
                after_AD = self.parts.step(before_AD, moved_AD, self._rows_of(self.depth_T, index_A))
                after_AD, stopped_N = halting.after_pass(
                    k, self._index(index_A), before_AD, after_AD, self._logits_of
                )
                self._move_keys(layers, k, rows_A, stopped_N)
            if k == 0 and self.config.kv_policy == "single_restored":
                restored = [self._attention(layer).written for layer in layers]
            if self.trace is not None:
                self.trace.add(k, rows_A, before_AD, after_AD)
            state_TD = after_AD if index_A is None else state_TD.index_copy(0, index_A, after_AD)
        if self.batch.deepest > 1:
            for layer, written in zip(layers, restored, strict=False):
                self._attention(layer).put(0, written)
        if self.trace is not None:
            self.trace.depth_T = halting.depth_T.cpu().numpy()
        return self.parts.leave(halting.result(state_TD), natural_TD, self.depth_T)

    def _fixed_rows(self, k: int) -> np.ndarray:
        return np.flatnonzero(self.host_depth_T > k)

    def _index(self, index_A: torch.Tensor | None) -> torch.Tensor:
        return torch.arange(self.num_rows, device=self.positions_T.device) if index_A is None else index_A

    def _pass(
        self,
        layers: list[int],
        k: int,
        state_TD: torch.Tensor,
        input_TD: torch.Tensor,
        index_A: torch.Tensor | None,
        is_gathered: bool,
    ) -> torch.Tensor:
        """Return what the core makes of the named rows (A, D); where they are not gathered, all rows run."""
        run = index_A if is_gathered else None
        state, inputs, positions = (self._rows_of(one, run) for one in (state_TD, input_TD, self.positions_T))
        ids = None if self.ids_T is None else self._rows_of(self.ids_T, run)
        x = self.parts.pass_input(state, inputs, positions, k)
        # The fused add-norm overwrites its arguments, and the state is read again.
        x = x.clone() if x is state else x
        x = joined(self.model.model.run_layers(layers, (x, None), positions, ids, k))
        return x if is_gathered else self._rows_of(x, index_A)

    def _attention(self, layer: int) -> LoopedAttention:
        return self.model.model.attention(layer)

    def _rows_of(self, x: torch.Tensor, index_A: torch.Tensor | None) -> torch.Tensor:
        return x if index_A is None else x[index_A]

    def _move_keys(self, layers: list[int], k: int, rows_A: np.ndarray, stopped_N: torch.Tensor) -> None:
        """Let deeper, later tokens find the last pass of a row that left."""
        if self.config.kv_policy != "last_exited" or len(stopped_N) == 0:
            return
        is_all = len(rows_A) == self.num_rows or self.batch.regroup is None
        places_N = stopped_N if is_all else torch.from_numpy(np.searchsorted(rows_A, stopped_N.cpu().numpy()))
        for layer in layers:
            attention = self._attention(layer)
            for deeper in range(k + 1, min(self.config.num_slots(), self.batch.deepest)):
                attention.put(deeper, attention.written, places_N)

    def _logits_of(self, state_AD: torch.Tensor) -> torch.Tensor:
        logits_AV = self.model.compute_logits(self.parts.read_out(self.parts.core_exit(state_AD)))
        assert logits_AV is not None, "vLLM gathers logits on every rank of every platform that runs this"
        return logits_AV
