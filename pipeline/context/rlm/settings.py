"""What a recursive reading may be tuned by. All of it is bounded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipeline.core import Sampling, SandboxLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class RecursionSettings:
    """How the root and the leaves are sampled, and what a cell and a session may use."""

    root: Sampling = field(
        default_factory=lambda: Sampling(max_tokens=1024)
    )  # of the model that writes cells
    leaf: Sampling = field(default_factory=lambda: Sampling(max_tokens=512))  # of what cells ask by llm_query
    num_iterations: int = 16
    num_errors: int = 3  # in a row, that end it
    cell_seconds: float = 30.0  # without the time that its questions take
    output_chars: int = 8000  # of a cell's output, that the root is shown
    num_children: int = 4  # sessions at once, on each level below the root
    batch_size: int = 32  # prompts that the generator gets at once
    num_batches: int = 4  # at once
    sandbox: SandboxLimits = field(default_factory=SandboxLimits)  # its seconds are those of the question

    def at_depth(self, recurrence_depth: int, *, seed: int = 0) -> RecursionSettings:
        """Return the same with root and leaves at this recurrence depth."""
        root = replace(self.root, recurrence_depth=recurrence_depth, seed=seed)
        leaf = replace(self.leaf, recurrence_depth=recurrence_depth, seed=seed)
        return replace(self, root=root, leaf=leaf)
