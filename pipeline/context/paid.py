"""One call of a model within a purse: the worst case is reserved, what it was is settled."""

from __future__ import annotations

import time
from dataclasses import replace

from pipeline.context.reading import Spend
from pipeline.context.spending import Purse
from pipeline.core import Completion, Prompt, Sampling
from pipeline.exceptions import InputError
from pipeline.protocols import Generator


async def paid(
    generator: Generator, purse: Purse, prompt: Prompt, sampling: Sampling
) -> tuple[Completion, Spend]:
    """Return the completion of a prompt, and what it cost.

    Raises:
        BudgetSpentError: the purse has not enough for the worst case.
        DeadlineError: no time is left.
        InputError: prompt and answer do not fit the model's window.
        GeneratorError: the engine failed.
    """
    [num_tokens] = await generator.count_tokens([prompt])
    if num_tokens + sampling.max_tokens > (await generator.info()).max_model_tokens:
        raise InputError("the question is too long for the model's window", hint="shorten it")
    begun_at, held = time.monotonic(), purse.reserve(1, num_tokens + sampling.max_tokens)
    try:
        [[completion]] = await generator.generate([prompt], sampling)
        spend = settled(purse, held, completion)
    finally:
        purse.release(held)  # what is settled stays
    return completion, replace(spend, seconds=time.monotonic() - begun_at)


def settled(purse: Purse, reservation_id: str, completion: Completion) -> Spend:
    """Settle a call, and return what it cost: nothing where a ledger had the answer."""
    used = Spend(
        num_calls=1,
        num_prompt_tokens=completion.num_prompt_tokens,
        num_completion_tokens=completion.num_completion_tokens,
    )
    purse.settle(reservation_id, used, is_cached=completion.is_cached)
    return Spend(num_cached_calls=1) if completion.is_cached else used
