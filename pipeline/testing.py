"""Scripted edges for tests, ours and yours: a Generator that recites, a Sandbox that records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.core import (
    Completion,
    GeneratorInfo,
    Outcome,
    Prompt,
    Sampling,
    SandboxRequest,
    SandboxResult,
    Step,
)

Reply = Callable[[Prompt, Sampling, int], str]  # prompt, sampling, sample number -> text


@dataclass
class ScriptedGenerator:
    """A Generator whose texts come from a function, or from a list read in order."""

    reply: Reply | Sequence[str]
    max_model_tokens: int = 4096
    max_recurrence_depth: int = 4
    recurrence_depth: int = 1
    steps: Callable[[str], tuple[Step, ...]] = lambda _text: ()  # of a text, where alternatives are asked for
    calls: list[tuple[tuple[Prompt, ...], Sampling]] = field(default_factory=list)
    _position: int = 0

    async def info(self) -> GeneratorInfo:
        """Return a description of the script."""
        return GeneratorInfo(
            model="scripted",
            max_model_tokens=self.max_model_tokens,
            max_recurrence_depth=self.max_recurrence_depth,
            recurrence_depth=self.recurrence_depth,
        )

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Count four characters as one token."""
        return [
            (sum(len(m.content) for m in prompt.messages) + len(prompt.prefill)) // 4 + 1
            for prompt in prompts
        ]

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Recite, and record the call."""
        self.calls.append((tuple(prompts), sampling))
        num_prompt_tokens = await self.count_tokens(prompts)
        return [
            [
                self._completion(self._text(prompt, sampling, i), num_tokens, sampling)
                for i in range(sampling.num_samples)
            ]
            for prompt, num_tokens in zip(prompts, num_prompt_tokens, strict=True)
        ]

    def _text(self, prompt: Prompt, sampling: Sampling, number: int) -> str:
        if callable(self.reply):
            return self.reply(prompt, sampling, number)
        text = self.reply[self._position % len(self.reply)]
        self._position += 1
        return text

    def _completion(self, text: str, num_prompt_tokens: int, sampling: Sampling) -> Completion:
        return Completion(
            text=text,
            num_prompt_tokens=num_prompt_tokens,
            num_completion_tokens=len(text) // 4 + 1,
            finish_reason="stop",
            recurrence_depth=sampling.recurrence_depth,
            seconds=0.0,
            steps=self.steps(text) if sampling.num_alternatives else (),
        )


@dataclass
class RecordingSandbox:
    """A Sandbox that runs nothing: it records each request and answers from a function."""

    respond: Callable[[SandboxRequest], SandboxResult] = lambda _: SandboxResult(
        outcome=Outcome.EXITED, exit_code=0
    )
    requests: list[SandboxRequest] = field(default_factory=list)
    name: str = "scripted"

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Record the request and answer it."""
        self.requests.append(request)
        return self.respond(request)

    async def close(self) -> None:
        """Do nothing: nothing is kept up."""
