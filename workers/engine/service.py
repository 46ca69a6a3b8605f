"""The engine as a replica: admits a batch or refuses it whole, streams samples as they end, keeps count."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from pipeline.core import Completion, GeneratorInfo, Prompt, Sampling, Step
from pipeline.exceptions import EngineDeadError, InputError
from workers.engine.backend import Backend
from workers.engine.batch import EngineCounters, Event, SampleKey
from workers.engine.settings import EngineSettings

_Outcome = tuple[SampleKey, Completion | Exception]

_REPORT_SECONDS = 1.0  # between two reports of tokens drafted


@dataclass
class _Tally:
    """Counts what passes through an engine. Read from other threads: every field is one plain value."""

    num_requests: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    num_running: int = 0
    running_seconds: float = 0.0  # of the stretches that ended
    started_at: float = field(default_factory=time.monotonic)
    changed_at: float = field(default_factory=time.monotonic)  # when it last began or ceased to be idle

    def begin(self) -> None:
        if self.num_running == 0:
            self.changed_at = time.monotonic()
        self.num_running += 1

    def end(self) -> None:
        self.num_running -= 1
        if self.num_running == 0:
            now = time.monotonic()
            self.running_seconds += now - self.changed_at
            self.changed_at = now

    def touch(self) -> None:
        if self.num_running == 0:
            self.changed_at = time.monotonic()

    def counters(self) -> EngineCounters:
        now = time.monotonic()
        stretch = now - self.changed_at
        return EngineCounters(
            num_requests=self.num_requests,
            num_prompt_tokens=self.num_prompt_tokens,
            num_completion_tokens=self.num_completion_tokens,
            num_running=self.num_running,
            running_seconds=self.running_seconds + (stretch if self.num_running else 0.0),
            idle_seconds=0.0 if self.num_running else stretch,
            uptime_seconds=now - self.started_at,
        )


class EngineService:
    """A Replica over a Backend, in one process. The Ray actor is this with a vLLM backend."""

    def __init__(self, backend: Backend, settings: EngineSettings) -> None:
        self._backend = backend
        self._settings = settings
        self._tally = _Tally()
        self._request_numbers = itertools.count()

    async def info(self) -> GeneratorInfo:
        """Return what the engine serves."""
        loop = self._settings.loop
        return GeneratorInfo(
            model=self._settings.model_path,
            max_model_tokens=self._settings.max_model_tokens,
            max_recurrence_depth=self._settings.max_recurrence_depth,
            recurrence_depth=loop.recurrence_depth if loop else 1,
        )

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the tokens of each prompt, chat template and prefill included."""
        return [len(self._backend.tokenize(prompt)) for prompt in prompts]

    async def queue_length(self) -> int:
        """Return the number of samples that are waiting or running."""
        return self._tally.num_running

    async def counters(self) -> EngineCounters:
        """Return what the engine has done so far."""
        return self._tally.counters()

    async def touch(self) -> None:
        """Restart the idle clock: a client is there, if not drafting."""
        self._tally.touch()

    async def health(self) -> None:
        """Raise EngineDeadError where the engine can never answer again."""
        if self._backend.is_dead:
            raise EngineDeadError("the engine process is dead")

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, wanted: Sequence[SampleKey]
    ) -> AsyncGenerator[Event, None]:
        """Draft the wanted samples and yield each as it ends. Closing the stream aborts the rest.

        Raises:
            InputError: a prompt does not fit the window, or the sampling cannot be served; nothing has run.
            EngineDeadError: the engine died.
        """
        tokens = self._admit(prompts, sampling, wanted)
        outcomes: asyncio.Queue[_Outcome] = asyncio.Queue()
        drafted = [0]
        tasks = [
            asyncio.create_task(self._draft(key, tokens[key.prompt], sampling, drafted, outcomes))
            for key in wanted
        ]
        try:
            num_left = len(tasks)
            while num_left:
                try:
                    key, outcome = await asyncio.wait_for(outcomes.get(), _REPORT_SECONDS)
                except TimeoutError:
                    yield Event(drafted[0])
                    continue
                if isinstance(outcome, Exception):
                    raise outcome
                num_left -= 1
                yield Event(drafted[0], key, outcome)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _admit(
        self, prompts: Sequence[Prompt], sampling: Sampling, wanted: Sequence[SampleKey]
    ) -> dict[int, list[int]]:
        """Return the tokens of the prompts that are wanted, or refuse them all."""
        self._backend.check(sampling)
        tokens = {index: self._backend.tokenize(prompts[index]) for index in {key.prompt for key in wanted}}
        window = self._settings.max_model_tokens
        for index, prompt_tokens in sorted(tokens.items()):
            if len(prompt_tokens) >= window:
                raise InputError(
                    f"prompt {index} has {len(prompt_tokens)} tokens and leaves no room for an answer "
                    f"in the window of {window}",
                    hint="Shorten the prompt, or start the engine with a larger window.",
                )
        return tokens

    async def _draft(
        self,
        key: SampleKey,
        tokens: list[int],
        sampling: Sampling,
        drafted: list[int],
        outcomes: asyncio.Queue[_Outcome],
    ) -> None:
        """Put the finished sample, or what went wrong, on the queue."""
        self._tally.begin()
        try:
            outcomes.put_nowait((key, await self._complete(key, tokens, sampling, drafted)))
        except Exception as error:  # handed over, not swallowed: `generate` raises it
            outcomes.put_nowait((key, error))
        finally:
            self._tally.end()

    async def _complete(
        self, key: SampleKey, tokens: list[int], sampling: Sampling, drafted: list[int]
    ) -> Completion:
        started_at = time.monotonic()
        request_id = f"{next(self._request_numbers)}"
        text: list[str] = []
        steps: list[Step] = []
        num_tokens, finish_reason = 0, None
        self._tally.num_prompt_tokens += len(tokens)
        async for piece in self._backend.stream(request_id, tokens, sampling, sampling.seed + key.sample):
            text.append(piece.text)
            steps += piece.steps
            num_tokens += piece.num_tokens
            drafted[0] += piece.num_tokens
            self._tally.num_completion_tokens += piece.num_tokens
            finish_reason = piece.finish_reason
        self._tally.num_requests += 1
        return Completion(
            text="".join(text),
            num_prompt_tokens=len(tokens),
            num_completion_tokens=num_tokens,
            finish_reason=finish_reason or "abort",
            recurrence_depth=sampling.recurrence_depth,
            seconds=time.monotonic() - started_at,
            steps=tuple(steps),
        )
