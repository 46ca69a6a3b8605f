"""The conformance suite serves models that have nothing to do with ours: here, a looped linear attention."""

from __future__ import annotations

import pytest
import torch

from model.testing.conformance import conformance
from model.testing.under_test import Claims, Fed

VOCAB, WIDTH, MAX_DEPTH = 50, 16, 3


class LinearAttention:
    """state <- tanh(state W + sums[pass] state V): the sums of outer products are its whole cache."""

    def __init__(self, *, has_coda=False):
        generator = torch.Generator().manual_seed(0)
        self.embedding, self.w, self.v, self.coda = (
            torch.randn(*shape, generator=generator) / WIDTH**0.5
            for shape in ((VOCAB, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH))
        )
        self.has_coda = has_coda
        self.claims = Claims(
            vocab_size=VOCAB,
            max_depth=MAX_DEPTH,
            is_chunk_invariant=True,
            is_depth_nested=not has_coda,
            exit_rules=("latent",),
        )

    def begin(self, max_tokens):
        return Sums(self)

    def plain(self, token_ids):
        total, coda_total, logits = torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH, WIDTH), []
        for token in token_ids:
            x = self.embedding[token]
            total = total + torch.outer(x, x)
            x = torch.tanh(x @ self.w + total @ x @ self.v)
            coda_total = coda_total + torch.outer(x, x)
            logits.append((x + coda_total @ x @ self.coda if self.has_coda else x) @ self.embedding.T)
        return torch.stack(logits)

    def batch(self, prompts, depths):
        pairs = zip(prompts, depths, strict=True)
        return [self.begin(len(prompt)).feed(prompt, depth).logits_TV for prompt, depth in pairs]


class Sums:
    """Its cache: a sum for each pass, and one for the coda."""

    def __init__(self, model):
        self.model = model
        self.sums = [torch.zeros(WIDTH, WIDTH) for _ in range(MAX_DEPTH + 1)]

    def feed(self, token_ids, depth, exit_request=None):
        depths = [depth] * len(token_ids) if isinstance(depth, int) else depth
        taken = [self._token(token, one, exit_request) for token, one in zip(token_ids, depths, strict=True)]
        return Fed(torch.stack([logits for logits, _ in taken]), tuple(one for _, one in taken))

    def _token(self, token, depth, exit_request):
        x, taken, taken_at = self.model.embedding[token], None, depth
        for k in range(depth):
            self.sums[k] = self.sums[k] + torch.outer(x, x)
            moved = torch.tanh(x @ self.model.w + self.sums[k] @ x @ self.model.v)
            change, x = (moved - x).norm() / moved.norm(), moved
            stops = exit_request and change < exit_request.threshold and k + 1 >= exit_request.min_depth
            if stops and taken is None:  # it runs on, so that its slots are filled
                taken, taken_at = x, k + 1
        x = x if taken is None else taken
        if self.model.has_coda:
            self.sums[-1] = self.sums[-1] + torch.outer(x, x)
            x = x + self.sums[-1] @ x @ self.model.coda
        return x @ self.model.embedding.T, taken_at

    def keep_passes(self, depth):
        for slot in range(depth, MAX_DEPTH):
            self.sums[slot] = torch.zeros(WIDTH, WIDTH)


def test_another_architecture_that_keeps_its_promises_passes():
    found = {one.check: one for one in conformance(LinearAttention())}
    assert all(not one.skipped and one.difference < 1e-4 for one in found.values())


def test_its_coda_ends_the_nesting_of_depths():
    found = {one.check: one for one in conformance(LinearAttention(has_coda=True))}
    assert found["T9"].difference > 0.01


def test_claim_that_it_does_not_keep_is_named():
    boasting = LinearAttention(has_coda=True)
    boasting.claims = LinearAttention().claims
    with pytest.raises(AssertionError, match=r"^T9: keys of depth 3 do not nest"):
        conformance(boasting)
