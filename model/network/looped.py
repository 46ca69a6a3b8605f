"""A looped decoder, top to bottom: embedding, prelude, core as often as each token asks, coda, head.

This is the function that every server of the model is compared with. It runs one sequence, whole or in pieces
over a cache, and masks nothing: rows that have stopped are left out of a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from model.config import LoopedConfig
from model.exceptions import DepthError
from model.exits import ExitRequest
from model.halting import Halting
from model.network.block import Block
from model.network.cache import KVCache
from model.parts import LoopParts


class Recorder(Protocol):
    """Sees what happens inside, for diagnostics."""

    def start(self, state_TD: torch.Tensor) -> None:
        """See all rows before the first pass."""

    def layer(
        self, pass_index: int, layer: int, rows_A: torch.Tensor, x_AD: torch.Tensor, probs_HAS: torch.Tensor
    ) -> None:
        """See the rows of a pass after a layer of the core, and how they attended."""

    def loop(
        self, pass_index: int, rows_A: torch.Tensor, before_AD: torch.Tensor, after_AD: torch.Tensor
    ) -> None:
        """See the state before and after a pass."""


@dataclass(frozen=True, slots=True)
class LoopOutput:
    """What a forward pass gives for T tokens."""

    logits_TV: torch.Tensor
    hidden_TD: torch.Tensor  # as the head reads it
    depth_T: torch.Tensor  # passes after which each token's state was taken


@dataclass(slots=True)
class _Loop:
    """The rows of one forward pass, on their way through the core."""

    state_TD: torch.Tensor
    input_TD: torch.Tensor
    positions_T: torch.Tensor
    token_ids_T: torch.Tensor
    depth_T: torch.Tensor  # passes to run; fewer once a row has stopped and left
    cache: KVCache
    recorder: Recorder | None


class LoopedNetwork(nn.Module):
    """The network that a `LoopedConfig` describes, with Llama's parameter names where it has the part."""

    def __init__(self, config: LoopedConfig) -> None:
        super().__init__()
        self.config = config
        width = config.block.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.parts = LoopParts(config)
        key_size = config.block.num_key_value_heads * config.block.head_dim
        self.value_embeddings = nn.ModuleDict(
            {str(layer): nn.Embedding(config.vocab_size, key_size) for layer in config.value_embedding_layers}
        )
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self,
        token_ids_T: torch.Tensor,
        *,
        depth: int | torch.Tensor | None = None,
        exit_request: ExitRequest | None = None,
        cache: KVCache | None = None,
        recorder: Recorder | None = None,
    ) -> LoopOutput:
        """Return logits for each of these tokens, which follow what the cache holds.

        Args:
            token_ids_T: the tokens.
            depth: passes for all of them, or for each (T,); the checkpoint's own when None.
            exit_request: when to stop before that; the checkpoint's rule when None.
            cache: earlier tokens; grows by these.
            recorder: sees every pass.

        Raises:
            DepthError: a depth is outside the checkpoint's range.
        """
        cache = KVCache(len(token_ids_T)) if cache is None else cache
        positions_T = torch.arange(cache.num_tokens, cache.num_tokens + len(token_ids_T))
        hidden_TD = self.embed_tokens(token_ids_T) * self.config.embedding_scale
        hidden_TD = self._outer(range(self.config.core_start), hidden_TD, positions_T, token_ids_T, cache)
        input_TD = self.parts.core_input(hidden_TD)
        loop = _Loop(
            self.parts.initial_state(input_TD, positions_T),
            input_TD,
            positions_T,
            token_ids_T,
            self._depths(depth, input_TD),
            cache,
            recorder,
        )
        hidden_TD, stopped_T = self._core(loop, exit_request or self._default_exit())
        read_TD = self.finish(hidden_TD, positions_T, token_ids_T, cache)
        cache.num_tokens += len(token_ids_T)
        return LoopOutput(self.logits(read_TD), read_TD, stopped_T)

    def finish(
        self, left_TD: torch.Tensor, positions_T: torch.Tensor, token_ids_T: torch.Tensor, cache: KVCache
    ) -> torch.Tensor:
        """Return what the head reads (T, D), given what left the core: the coda and the final norm."""
        coda = range(self.config.core_stop, self.config.num_layers)
        return self.parts.read_out(self._outer(coda, left_TD, positions_T, token_ids_T, cache))

    def logits(self, read_TD: torch.Tensor) -> torch.Tensor:
        """Return the logits (T, V) of what the head reads."""
        return self.lm_head(read_TD) * self.config.logit_scale

    def greedy(
        self,
        token_ids: list[int],
        num_tokens: int,
        *,
        depth: int | None = None,
        exit_request: ExitRequest | None = None,
    ) -> list[int]:
        """Return the most likely continuation, one token at a time over a cache."""
        cache = KVCache(len(token_ids) + num_tokens)
        pending, produced = list(token_ids), []
        for _ in range(num_tokens):
            out = self(torch.tensor(pending), depth=depth, exit_request=exit_request, cache=cache)
            pending = [int(out.logits_TV[-1].argmax())]
            produced += pending
        return produced

    def _default_exit(self) -> ExitRequest:
        config = self.config
        return ExitRequest(config.exit_rule, config.exit_threshold, config.min_recurrence_depth)

    def _depths(self, depth: int | torch.Tensor | None, input_TD: torch.Tensor) -> torch.Tensor:
        given = self.config.recurrence_depth if depth is None else depth
        depth_T = torch.as_tensor(given).expand(len(input_TD)).clone()
        if depth_T.min() < 1 or depth_T.max() > self.config.max_recurrence_depth:
            raise DepthError(f"depths must lie in 1..{self.config.max_recurrence_depth}, got {depth}")
        return depth_T

    def _outer(
        self,
        layers: range,
        x_TD: torch.Tensor,
        positions_T: torch.Tensor,
        ids_T: torch.Tensor,
        cache: KVCache,
    ) -> torch.Tensor:
        for layer in layers:
            x_TD, _ = self.layers[layer](x_TD, positions_T, 0, cache, self._token_values(layer, ids_T))
        return x_TD

    def _token_values(self, layer: int, ids_A: torch.Tensor) -> torch.Tensor | None:
        key = str(layer)
        return self.value_embeddings[key](ids_A) if key in self.value_embeddings else None

    def _core(self, loop: _Loop, exit_request: ExitRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the coda reads (T, D), and each row's number of passes (T,)."""
        core = list(range(self.config.core_start, self.config.core_stop))
        depth_T = loop.depth_T
        if loop.recorder:
            loop.recorder.start(loop.state_TD)
        for layers in [core] if self.config.loop_order == "model" else [[layer] for layer in core]:
            loop.state_TD, depth_T = self._window(layers, loop, exit_request)
        return loop.state_TD, depth_T

    def _window(
        self, layers: list[int], loop: _Loop, exit_request: ExitRequest
    ) -> tuple[torch.Tensor, torch.Tensor]:
        state_TD, natural_TD = loop.state_TD, loop.state_TD
        halting = Halting(self.parts, [exit_request] * len(state_TD), loop.depth_T, state_TD)
        for pass_index in range(int(loop.depth_T.max())):
            rows_A = halting.rows(pass_index, state_TD)
            before_AD = state_TD[rows_A]
            moved_AD = self._pass(layers, loop, rows_A, before_AD, pass_index)
            natural_TD = moved_AD if pass_index == 0 else natural_TD
            after_AD = self.parts.step(before_AD, moved_AD, loop.depth_T[rows_A])
            after_AD, _ = halting.after_pass(pass_index, rows_A, before_AD, after_AD, self._logits_of)
            if loop.recorder:
                loop.recorder.loop(pass_index, rows_A, before_AD, after_AD)
            state_TD = state_TD.index_copy(0, rows_A, after_AD)
            if self.config.kv_policy == "last_exited":
                left_N = rows_A[halting.depth_T[rows_A] == pass_index + 1]
                self._fill_deeper_slots(layers, loop, left_N, pass_index)
            if self.config.kv_policy == "single_restored" and pass_index == 0:
                restored = [(layer, loop.cache.read(layer, 0, loop.positions_T)) for layer in layers]
        if self.config.kv_policy == "single_restored":
            for layer, (keys_THK, values_THK) in restored:
                loop.cache.write(layer, 0, loop.positions_T, keys_THK, values_THK)
        return self.parts.leave(halting.result(state_TD), natural_TD, loop.depth_T), halting.depth_T

    def _pass(
        self, layers: list[int], loop: _Loop, rows_A: torch.Tensor, state_AD: torch.Tensor, pass_index: int
    ) -> torch.Tensor:
        """Return what the core makes of the rows' states (A, D), before the step rule."""
        positions_A, ids_A = loop.positions_T[rows_A], loop.token_ids_T[rows_A]
        x_AD = self.parts.pass_input(state_AD, loop.input_TD[rows_A], positions_A, pass_index)
        for layer in layers:
            x_AD, probs_HAS = self.layers[layer](
                x_AD, positions_A, pass_index, loop.cache, self._token_values(layer, ids_A)
            )
            if loop.recorder:
                loop.recorder.layer(pass_index, layer, rows_A, x_AD, probs_HAS)
        return x_AD

    def _fill_deeper_slots(
        self, layers: list[int], loop: _Loop, left_N: torch.Tensor, pass_index: int
    ) -> None:
        """Let deeper, later tokens find the last pass of a row that left."""
        for layer in layers:
            for deeper in range(pass_index + 1, self.config.num_slots()):
                loop.cache.copy(layer, pass_index, deeper, loop.positions_T[left_N])

    def _logits_of(self, state_AD: torch.Tensor) -> torch.Tensor:
        return self.logits(self.parts.read_out(self.parts.core_exit(state_AD)))
