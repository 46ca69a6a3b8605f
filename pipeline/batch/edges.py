"""The edges that all tasks of a planner share: one bound on its sandboxes, one count of its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from pipeline.core import Completion, GeneratorInfo, Prompt, Sampling, SandboxRequest, SandboxResult
from pipeline.exceptions import EngineLostError, GeneratorError
from pipeline.protocols import Generator, Sandbox

_MAX_FAILURES_IN_A_ROW = 3
_Answer = TypeVar("_Answer")


class BoundedSandbox:
    """A Sandbox that runs no more than `num_parallel` requests at once, first come, first served."""

    def __init__(self, inner: Sandbox, num_parallel: int) -> None:
        self._inner = inner
        self._slots = asyncio.Semaphore(num_parallel)
        self.num_parallel = num_parallel
        self.name = inner.name

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Wait for a slot and run the request."""
        async with self._slots:
            return await self._inner.run(request)

    async def close(self) -> None:
        """Close the inner sandbox."""
        await self._inner.close()


class SharedGenerator:
    """A Generator that counts what it drafts, and says when the engine behind it seems to be gone."""

    def __init__(self, inner: Generator) -> None:
        self._inner = inner
        self._num_failures = 0  # since the last draft
        self.num_tokens = 0  # completion tokens of finished drafts

    async def info(self) -> GeneratorInfo:
        """Return the inner generator's description."""
        return await self._watched(self._inner.info())

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Count with the inner generator."""
        return await self._watched(self._inner.count_tokens(prompts))

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Draft with the inner generator.

        Raises:
            EngineLostError: it failed several times in a row, so going on would only spoil the other tasks.
        """
        answers = await self._watched(self._inner.generate(prompts, sampling))
        self._num_failures = 0
        self.num_tokens += sum(completion.num_completion_tokens for row in answers for completion in row)
        return answers

    async def _watched(self, answer: Awaitable[_Answer]) -> _Answer:
        try:
            return await answer
        except GeneratorError as exc:
            self._num_failures += 1
            if self._num_failures < _MAX_FAILURES_IN_A_ROW:
                raise
            raise EngineLostError(
                f"the engine failed {self._num_failures} times in a row: {exc}",
                hint=exc.hint or "see to the engine, then give the same command again with --redo infra",
            ) from exc
