"""The looped forward pass, stated as plainly as PyTorch allows: one sequence, no KV cache, no batch, no vLLM.

Every engine adapter is compared with this. It shares no arithmetic with `model.recurrence`. Run over a whole
sequence, pass k of a token attends to pass k of earlier tokens, which is what depth_indexed KV means.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from model.loop import LoopConfig


class ReferenceModel:
    """A Qwen2 checkpoint, read by transformers in float32."""

    def __init__(self, checkpoint: Path, loop: LoopConfig) -> None:
        from transformers import AutoModelForCausalLM

        self.loop = loop
        self.network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logits(self, token_ids: list[int], depth: int) -> torch.Tensor:
        """Return the logits (T, V) of every position, for a recurrence depth."""
        body = self.network.model
        x_TD = body.embed_tokens(torch.tensor(token_ids))
        x_TD = self._layers(x_TD, 0, self.loop.window_start)
        x_TD = self._looped_window(x_TD, depth)
        x_TD = self._layers(x_TD, self.loop.window_stop, len(body.layers))
        return self.network.lm_head(body.norm(x_TD))

    def greedy(self, token_ids: list[int], depth: int, num_tokens: int) -> list[int]:
        """Return the `num_tokens` most likely next tokens, end-of-text included like any other."""
        sequence = list(token_ids)
        for _ in range(num_tokens):
            sequence.append(int(self.logits(sequence, depth)[-1].argmax()))
        return sequence[len(token_ids) :]

    def _looped_window(self, x_TD: torch.Tensor, depth: int) -> torch.Tensor:
        plain_TD = self._window(x_TD)
        if depth == 1:
            return plain_TD
        if self.loop.step_rule == "plain":
            for _ in range(depth):
                x_TD = self._window(x_TD)
            return x_TD
        for _ in range(depth):
            x_TD = x_TD + (self._window(x_TD) - x_TD) / depth
        if self.loop.step_rule == "damped":
            return x_TD
        beta = self.loop.anchor_weight
        return beta * plain_TD + (1 - beta) * x_TD

    def _window(self, x_TD: torch.Tensor) -> torch.Tensor:
        return self._layers(x_TD, self.loop.window_start, self.loop.window_stop)

    def _layers(self, x_TD: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        num_tokens = x_TD.shape[0]
        x_1TD = x_TD[None]
        positions_1T = torch.arange(num_tokens)[None]
        mask_11TT = torch.full((num_tokens, num_tokens), float("-inf")).triu(1)[None, None]
        rotary: Any = self.network.model.rotary_emb(x_1TD, positions_1T)
        for layer in self.network.model.layers[start:stop]:
            x_1TD = layer(x_1TD, attention_mask=mask_11TT, position_embeddings=rotary)
        return x_1TD[0]
