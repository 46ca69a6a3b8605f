"""Answers what cells ask, within the purse: budgets, sizes and depth are kept here, outside the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.context.paid import settled
from pipeline.context.reading import Answer, Ending, Spend
from pipeline.context.reading_trace import Trace
from pipeline.context.rlm import prompts
from pipeline.context.rlm.messages import Call, LlmCall, Reply, SubcallFailure
from pipeline.context.rlm.settings import RecursionSettings
from pipeline.context.spending import BudgetSpentError, DeadlineError, Purse
from pipeline.core import Completion, GeneratorInfo, Prompt, Sampling
from pipeline.exceptions import EnvironmentBrokenError, InputError
from pipeline.protocols import Generator
from pipeline.text import count

Text = str | list[str]
# A child: its question, its text, its purse, and the event that it is told under.
Spawn = Callable[[str, Text, Purse, int], Awaitable[Answer]]
_MAX_TOKEN_CHARS = 64  # no token is longer, but for oddities: what is too long even so is not counted
_CHILD_SHARE_OF_TIME = 0.9  # so that the parent has some left for what the child found
_FAILURES: dict[Ending, SubcallFailure] = {
    Ending.BUDGET_SPENT: "budget",
    Ending.DEADLINE: "deadline",
    Ending.GAVE_UP: "engine",
    Ending.NOTHING_READ: "engine",
}


@dataclass(frozen=True, kw_only=True)
class Broker:
    """Serves one session."""

    generator: Generator
    info: GeneratorInfo
    purse: Purse
    settings: RecursionSettings
    trace: Trace
    batches: asyncio.Semaphore  # of all sessions together
    children: asyncio.Semaphore  # of this level: a parent that waits holds none of those it waits for
    spawn: Spawn | None  # None at the deepest level

    async def serve(self, call: Call, parent: int) -> list[Reply]:
        """Return a reply to each question of a call, in order; `parent` is the cell's event."""
        ask = self._ask if isinstance(call, LlmCall) else self._spawn_all
        left = self.purse.remaining().num_calls
        replies = await ask(call.questions[:left], parent)  # type: ignore[arg-type]
        refused = Reply.failed("budget", f"{len(call.questions)} calls are wanted; {left} are left")
        return [*replies, *[refused] * (len(call.questions) - left)]

    async def _ask(self, questions: Sequence[str], parent: int) -> list[Reply]:
        size = self.settings.batch_size
        batches = [questions[i : i + size] for i in range(0, len(questions), size)]
        answered = await asyncio.gather(*(self._ask_batch(batch, parent) for batch in batches))
        return [reply for replies in answered for reply in replies]

    async def _ask_batch(self, questions: Sequence[str], parent: int) -> list[Reply]:
        """Reserve for each prompt, ask the rest as one batch, and settle what each has cost."""
        async with self.batches:
            asked = [prompts.leaf(question) for question in questions]
            sampling = self._sampling()
            try:
                sizes = await self._sizes(asked)
            except EnvironmentBrokenError as exc:
                return [self._failed(len(asked), exc, parent)] * len(asked)
            reserved = [self._reserved(size, sampling) for size in sizes]
            held = {i: one for i, one in enumerate(reserved) if isinstance(one, str)}
            replies = {i: one for i, one in enumerate(reserved) if isinstance(one, Reply)}
            try:
                replies |= await self._generate({i: asked[i] for i in held}, sampling, held, parent)
            finally:
                for reservation in held.values():  # what is settled stays
                    self.purse.release(reservation)
            return [replies[i] for i in range(len(questions))]

    def _sampling(self) -> Sampling:
        max_tokens = min(self.settings.leaf.max_tokens, self.info.max_model_tokens // 4)
        return replace(self.settings.leaf, num_samples=1, max_tokens=max_tokens)

    async def _sizes(self, asked: Sequence[Prompt]) -> list[int]:
        """Return the tokens of each prompt, at least; those far too long are not worth counting."""
        max_chars = self.info.max_model_tokens * _MAX_TOKEN_CHARS
        lengths = [sum(len(message.content) for message in prompt.messages) for prompt in asked]
        short = [prompt for prompt, length in zip(asked, lengths, strict=True) if length <= max_chars]
        counted = iter(await self.generator.count_tokens(short) if short else [])
        return [next(counted) if length <= max_chars else length // _MAX_TOKEN_CHARS for length in lengths]

    def _reserved(self, num_tokens: int, sampling: Sampling) -> str | Reply:
        most = self.info.max_model_tokens - sampling.max_tokens
        if num_tokens > most:
            return Reply.failed(
                "too_long", f"the prompt has {num_tokens:,} tokens or more; the most is {most:,}"
            )
        try:
            return self.purse.reserve(1, num_tokens + sampling.max_tokens)
        except BudgetSpentError as exc:
            return Reply.failed("budget", str(exc))
        except DeadlineError as exc:
            return Reply.failed("deadline", str(exc))

    async def _generate(
        self, asked: dict[int, Prompt], sampling: Sampling, held: dict[int, str], parent: int
    ) -> dict[int, Reply]:
        if not asked:
            return {}
        try:
            drafted = await self.generator.generate(list(asked.values()), sampling)
        except (EnvironmentBrokenError, InputError) as exc:
            return dict.fromkeys(asked, self._failed(len(asked), exc, parent))
        completions = {i: drafts[0] for i, drafts in zip(asked, drafted, strict=True)}
        spend = sum((settled(self.purse, held[i], one) for i, one in completions.items()), start=Spend())
        self._note(list(completions.values()), spend, parent)
        return {i: _reply(completion) for i, completion in completions.items()}

    def _failed(self, num_questions: int, exc: Exception, parent: int) -> Reply:
        title = count(num_questions, "question") + " to the model failed"
        self.trace.add("error", title, parent=parent, detail=str(exc))
        return Reply.failed("engine", str(exc))

    def _note(self, completions: Sequence[Completion], spend: Spend, parent: int) -> None:
        num_cut = sum(_is_cut(one) for one in completions)
        cut = f", {count(num_cut, 'answer')} cut off" if num_cut else ""
        self.trace.add(
            "ask",
            count(len(completions), "question") + " to the model" + cut,
            parent=parent,
            detail=completions[0].text,
            num_prompt_tokens=spend.num_prompt_tokens,
            num_completion_tokens=spend.num_completion_tokens,
            seconds=max(0.0 if one.is_cached else one.seconds for one in completions),
            is_cached=not spend.num_calls,
        )

    async def _spawn_all(self, questions: Sequence[tuple[str, Text]], parent: int) -> list[Reply]:
        if (spawn := self.spawn) is None:
            refused = Reply.failed("depth", "no REPL may be started from this one: use llm_query")
            return [refused] * len(questions)
        num_waiting = len(questions)

        async def one(question: str, text: Text) -> Reply:
            nonlocal num_waiting
            async with self.children:
                purse = self._part(num_waiting + 1)  # one part is left for the parent
                num_waiting -= 1
                return await _spawned(spawn(question, text, purse, parent))

        return list(await asyncio.gather(*(one(question, text) for question, text in questions)))

    def _part(self, num_parts: int) -> Purse:
        left = self.purse.remaining()
        return self.purse.slice(
            num_calls=left.num_calls // num_parts,
            num_tokens=left.num_tokens // num_parts,
            seconds=left.seconds * _CHILD_SHARE_OF_TIME,
        )


async def _spawned(child: Awaitable[Answer]) -> Reply:
    try:
        answer = await child
    except (EnvironmentBrokenError, InputError) as exc:
        return Reply.failed("engine", str(exc))
    if answer.ending is Ending.COMPLETE:
        return Reply(ok=True, text=answer.text)
    return Reply.failed(_FAILURES[answer.ending], f"it ended early: {answer.ending}", answer.text)


def _reply(completion: Completion) -> Reply:
    if completion.finish_reason == "abort":
        return Reply.failed("engine", "the model was interrupted")
    return Reply(ok=True, text=completion.text, is_cut=_is_cut(completion))


def _is_cut(completion: Completion) -> bool:
    return completion.finish_reason in ("length", "repetition")
