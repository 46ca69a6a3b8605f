"""What every looped decoder promises, as named checks (T1 to T9) that know nothing of its architecture.

Wrap your model as a `LoopedModel`, say what it claims (`Claims`), and call `conformance(model)`; a check that
does not hold raises AssertionError with the numbers, one that does not apply says why. The checks draw their
prompts from a fixed seed. Differences are the largest between two logits, so scale tolerances to your logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from model.testing.comparing import NUM_TOKENS, Finding, depths_of, difference_of, prompt_of, require, whole
from model.testing.exit_checks import exits_hold
from model.testing.under_test import LoopedModel


def conformance(model: LoopedModel, *, tolerance: float = 1e-4) -> list[Finding]:
    """Run every check that needs nothing but the model.

    Raises:
        AssertionError: a promise is broken; the text names check, case and numbers.
    """
    return [check(model, tolerance) for check in CHECKS.values()]


def depth_one_is_plain(model: LoopedModel, tolerance: float = 1e-4) -> Finding:
    """T1: one pass is the unlooped network."""
    prompt = prompt_of(model, 0)
    plain_TV = model.plain(prompt)
    if plain_TV is None:
        return Finding("T1", skipped="there is no unlooped network")
    difference = difference_of(whole(model, prompt, 1), plain_TV)
    require(difference <= tolerance, "T1", f"depth 1 is not the unlooped network: {difference:.2e}")
    return Finding("T1", difference)


def incremental_is_whole(model: LoopedModel, tolerance: float = 1e-4) -> Finding:
    """T2: token by token over the cache gives what the whole sequence gives."""
    if not model.claims.is_chunk_invariant:
        return Finding("T2", skipped="the model does not claim it; T3 measures the difference")
    return Finding("T2", _largest_chunk_difference(model, [1] * NUM_TOKENS, "T2", tolerance))


def chunks_are_whole(model: LoopedModel, tolerance: float = 1e-4) -> Finding:
    """T3: a prompt in chunks gives what it gives whole; where that is not claimed, measurably it does not."""
    cuts = ([4, 5], [1, 8], [8, 1], [3, 3, 3])
    if model.claims.is_chunk_invariant:
        return Finding("T3", max(_largest_chunk_difference(model, cut, "T3", tolerance) for cut in cuts))
    difference = max(_largest_chunk_difference(model, cut, "T3", torch.inf) for cut in cuts)
    require(
        difference > tolerance,
        "T3",
        f"chunks change nothing ({difference:.2e}), though is_chunk_invariant is not claimed",
    )
    require(difference < torch.inf, "T3", "chunks lead to infinite logits")
    return Finding("T3", difference)


def rows_are_independent(model: LoopedModel, tolerance: float = 1e-4) -> Finding:
    """T4: a batch of mixed depths gives each row what it gets alone."""
    depths = [1 + i % model.claims.max_depth for i in range(5)]
    prompts = [prompt_of(model, i)[: 3 + i] for i in range(5)]
    worst = 0.0
    for prompt, depth, logits_TV in zip(prompts, depths, model.batch(prompts, depths), strict=True):
        difference = difference_of(logits_TV, whole(model, prompt, depth))
        require(
            difference <= tolerance,
            "T4",
            f"a row of depth {depth} among others differs by {difference:.2e} from itself alone",
        )
        worst = max(worst, difference)
    return Finding("T4", worst)


def token_depths_are_independent(model: LoopedModel, tolerance: float = 1e-4) -> Finding:
    """T4: tokens of one sequence, each at a depth of its own, are the same together and one by one."""
    if not model.claims.is_chunk_invariant:
        return Finding("T4 tokens", skipped="chunks differ")
    prompt = prompt_of(model, 1)
    depths = [1 + (i * 2) % model.claims.max_depth for i in range(len(prompt))]
    together = model.begin(len(prompt)).feed(prompt, depths).logits_TV
    one_by_one = model.begin(len(prompt))
    alone = torch.cat(
        [one_by_one.feed([token], depth).logits_TV for token, depth in zip(prompt, depths, strict=True)]
    )
    difference = difference_of(together, alone)
    require(difference <= tolerance, "T4", f"tokens of depths {depths} differ by {difference:.2e} together")
    return Finding("T4 tokens", difference)


def reloaded_is_same(model: LoopedModel, reloaded: LoopedModel, tolerance: float = 0.0) -> Finding:
    """T5: what was saved and loaded again is the same function, at every depth."""
    prompt = prompt_of(model, 0)
    worst = 0.0
    for depth in depths_of(model):
        difference = difference_of(whole(model, prompt, depth), whole(reloaded, prompt, depth))
        require(difference <= tolerance, "T5", f"reloaded, depth {depth} differs by {difference:.2e}")
        worst = max(worst, difference)
    return Finding("T5", worst)


def recomputed_is_same(model: LoopedModel, tolerance: float = 1e-4) -> Finding:
    """T8: a sequence that lost its cache and is computed anew goes on as it would have."""
    if not model.claims.is_chunk_invariant:
        return Finding("T8", skipped="chunks differ, and a recomputation is another chunk")
    worst = 0.0
    for depth in depths_of(model):
        prompt = prompt_of(model, 2)
        kept = model.begin(NUM_TOKENS + 4)
        logits_V = kept.feed(prompt, depth).logits_TV[-1]
        for _ in range(4):
            prompt = [*prompt, int(logits_V.argmax())]
            logits_V = kept.feed(prompt[-1:], depth).logits_TV[-1]
            difference = difference_of(logits_V, whole(model, prompt, depth)[-1])
            require(difference <= tolerance, "T8", f"recomputed, depth {depth} differs by {difference:.2e}")
            worst = max(worst, difference)
    return Finding("T8", worst)


def depths_nest(model: LoopedModel, tolerance: float = 1e-4) -> Finding:
    """T9: keys of a deep prompt serve a shallower continuation, or, where that is not claimed, do not."""
    deepest = model.claims.max_depth
    if deepest == 1:
        return Finding("T9", skipped="there is one depth")
    prompt, more = prompt_of(model, 3), prompt_of(model, 4)[:3]
    worst = 0.0
    for depth in range(1, deepest):
        nested, alone = model.begin(NUM_TOKENS + 3), model.begin(NUM_TOKENS + 3)
        nested.feed(prompt, deepest)
        nested.keep_passes(depth)
        alone.feed(prompt, depth)
        worst = max(
            worst, difference_of(nested.feed(more, depth).logits_TV, alone.feed(more, depth).logits_TV)
        )
    claim = model.claims.is_depth_nested
    require(
        claim is not True or worst <= tolerance, "T9", f"keys of depth {deepest} do not nest: {worst:.2e}"
    )
    require(
        claim is not False or worst > tolerance, "T9", f"depths nest ({worst:.2e}), though this is denied"
    )
    return Finding("T9", worst)


CHECKS: dict[str, Callable[[LoopedModel, float], Finding]] = {
    "T1": depth_one_is_plain,
    "T2": incremental_is_whole,
    "T3": chunks_are_whole,
    "T4": rows_are_independent,
    "T4 tokens": token_depths_are_independent,
    "T6": exits_hold,
    "T8": recomputed_is_same,
    "T9": depths_nest,
}


def _largest_chunk_difference(
    model: LoopedModel, lengths: Sequence[int], check: str, tolerance: float
) -> float:
    worst = 0.0
    for depth in depths_of(model):
        prompt = prompt_of(model, depth)
        sequence = model.begin(len(prompt))
        pieces = [sequence.feed(piece, depth).logits_TV for piece in _cut(prompt, lengths)]
        difference = difference_of(torch.cat(pieces), whole(model, prompt, depth))
        require(
            difference <= tolerance,
            check,
            f"depth {depth} in chunks of {list(lengths)} differs from the whole by {difference:.2e}",
        )
        worst = max(worst, difference)
    return worst


def _cut(prompt: Sequence[int], lengths: Sequence[int]) -> Iterator[Sequence[int]]:
    start = 0
    for length in lengths:
        yield prompt[start : start + length]
        start += length
