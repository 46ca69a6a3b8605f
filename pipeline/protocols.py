"""The seams (contracts C2 and C3): what the stages need from the outside. Implementations need not inherit.

Real ones live in `workers`; scripted ones for tests, ours and yours, in `pipeline.testing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pipeline.core import (
    Completion,
    GeneratorInfo,
    PreparedEnvironment,
    Prompt,
    Sampling,
    SandboxRequest,
    SandboxResult,
)


class Generator(Protocol):
    """Text in, sampled text out."""

    async def info(self) -> GeneratorInfo:
        """Return the model's name, window and deepest recurrence; waits for the engine to be ready.

        Raises:
            GeneratorError: the engine does not start or does not answer.
        """
        ...

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the number of tokens that each prompt takes, chat template and prefill included."""
        ...

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.num_samples` completions for each prompt, in order, drafted as one batch.

        Raises:
            InputError: the sampling is not servable (depth above the engine's maximum, prompt too long).
            GeneratorError: the engine failed, after one retry.
        """
        ...


class Sandbox(Protocol):
    """Runs a command on files, with limits, away from everything else."""

    name: str  # "docker", "bubblewrap", ...

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Run the request to its end. Never raises for what the code did; cancelling kills the run.

        A failure of the sandbox itself is retried inside and, when it stays, comes back as INFRA_ERROR.
        """
        ...

    async def close(self) -> None:
        """End what is kept up between runs. A run after it starts anew."""
        ...


class EnvironmentBuilder(Protocol):
    """Installs a target's dependencies, once, for one kind of sandbox."""

    async def prepare(self, tree: Path) -> PreparedEnvironment:
        """Return the environment for the tree at `tree`, from the cache where its requirements are unchanged.

        Raises:
            PrepareError: the requirements cannot be read or installed; the message says which.
        """
        ...
