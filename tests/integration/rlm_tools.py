"""What the tests of recursive reading share: a root that recites cells, and leaves that really read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.context.reading import Answer, Query
from pipeline.context.reading_trace import Trace
from pipeline.context.rlm.answer import answer
from pipeline.context.rlm.settings import RecursionSettings
from pipeline.core import Budget, Prompt, Sampling
from pipeline.protocols import Generator, Sandbox
from pipeline.snapshot import Snapshot
from pipeline.testing import ScriptedGenerator
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox

WINDOW_TOKENS = 4096
Leaf = Callable[[str], str]


def cell(code: str) -> str:
    """Return the message of a root that runs the code."""
    return f"I will look.\n```repl\n{code}\n```\n"


class Model(ScriptedGenerator):
    """Recites its roots' messages, by question, and answers leaves by a function of their text."""

    def __init__(
        self, roots: Mapping[str, Sequence[str]] | Sequence[str], leaf: Leaf = lambda text: f"read: {text}"
    ) -> None:
        super().__init__(self._answer, max_model_tokens=WINDOW_TOKENS)
        self.seen: list[Prompt] = []  # by roots
        self.num_leaves = 0
        self._roots = roots if isinstance(roots, Mapping) else {"": roots}
        self._leaf = leaf

    def _answer(self, prompt: Prompt, sampling: Sampling, _number: int) -> str:
        if "Python REPL" not in prompt.messages[0].content:
            self.num_leaves += 1
            return self._leaf(prompt.messages[-1].content)[: (sampling.max_tokens - 1) * 4]
        self.seen.append(prompt)
        messages = next(
            said for question, said in self._roots.items() if question in prompt.messages[1].content
        )
        num_turns = sum(message.role == "assistant" for message in prompt.messages)
        return messages[min(num_turns, len(messages) - 1)]

    @property
    def told(self) -> str:
        """What the roots were told, all turns together."""
        return "\n".join(prompt.messages[-1].content for prompt in self.seen)


async def read(
    model: Generator,
    source: Snapshot | str | Sequence[str],
    folder: Path,
    *,
    question: str = "What does it say?",
    budget: Budget | None = None,
    sandbox: Sandbox | None = None,
    trace: Trace | None = None,
    **settings: object,
) -> Answer:
    """Answer a question in bubblewrap."""
    return await answer(
        Query(text=question),
        source,
        budget or Budget(num_calls=100, num_tokens=2_000_000),
        generator=model,
        sandbox=sandbox or BubblewrapSandbox(),
        folder=folder,
        trace=trace,
        settings=RecursionSettings(**settings),  # type: ignore[arg-type]
    )
