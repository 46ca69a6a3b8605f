"""The loop of the root: it is told what is left, writes a cell, is told what came of it, until it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.context.paid import settled
from pipeline.context.reading import Ending, Spend
from pipeline.context.reading_trace import Trace
from pipeline.context.rlm import prompts
from pipeline.context.rlm.broker import Broker
from pipeline.context.rlm.link import Inputs
from pipeline.context.rlm.messages import Call, Done, Reply
from pipeline.context.rlm.move import Move, read_move
from pipeline.context.rlm.session import CellEnd, Session
from pipeline.context.rlm.settings import RecursionSettings
from pipeline.context.spending import BudgetSpentError, DeadlineError, Purse
from pipeline.core import Completion
from pipeline.text import count

_MAX_SHOWN_NAMES = 30
_REPEATED = "You wrote the same as before, and it did the same. Write something else."


@dataclass(kw_only=True)
class Root:
    """One reading by code."""

    inputs: Inputs
    session: Session
    broker: Broker
    purse: Purse
    settings: RecursionSettings
    trace: Trace
    event: int  # of the question
    depth: int  # sessions that may lie below this one
    wall_seconds: float
    _turns: list[prompts.Turn] = field(default_factory=list)
    _last: prompts.Turn | None = None
    _num_errors: int = 0  # in a row
    _has_read: bool = False
    _content: str = ""  # of the `answer` variable
    _final: str | None = None

    async def run(self) -> tuple[Ending, str]:
        """Return how it ended, and the answer: a best effort where the ending is not COMPLETE.

        Raises:
            SandboxError: no REPL can be started.
            GeneratorError: the engine failed, after its retry.
            InputError: the model's window is too small, or the sampling is not servable.
        """
        ending = await self._ending()
        if self._final is not None:
            return Ending.COMPLETE, self._final
        # Never an answer out of nothing: what was not read cannot be said.
        return (ending, self._content) if self._has_read else (Ending.NOTHING_READ, "")

    async def _ending(self) -> Ending:
        try:
            async with asyncio.timeout(self.purse.remaining().seconds) as timeout:
                for number in range(self.settings.num_iterations):
                    await self._turn(self.settings.num_iterations - number)
                    if self._final is not None:
                        return Ending.COMPLETE
                    if self._num_errors >= self.settings.num_errors:
                        return Ending.GAVE_UP
        except TimeoutError:
            if not timeout.expired():
                raise
            return Ending.DEADLINE
        except DeadlineError:
            return Ending.DEADLINE
        except BudgetSpentError:
            pass
        return Ending.BUDGET_SPENT

    async def _turn(self, num_left: int) -> None:
        completion, num_errors = await self._think(num_left), self._num_errors
        turn = replace(await self._act(completion, read_move(completion.text)), said=completion.text)
        is_repeated, self._last = turn == self._last, turn
        if is_repeated and self._final is None:
            self._num_errors = num_errors + 1  # it would go on like this to the last turn
            turn = replace(turn, told=f"{_REPEATED}\n{turn.told}")
        self._turns.append(turn)

    async def _think(self, num_left: int) -> Completion:
        """Let the root write its next message. Raises BudgetSpentError or DeadlineError where it may not."""
        info, generator = self.broker.info, self.broker.generator
        max_tokens = min(self.settings.root.max_tokens, info.max_model_tokens // 4)
        prompt, num_tokens = await prompts.root(
            generator,
            info,
            inputs=self.inputs,
            turns=self._turns,
            left=prompts.told_remaining(
                self.broker.purse.remaining(), self.wall_seconds, num_left, self.depth
            ),
            max_prompt_tokens=info.max_model_tokens - max_tokens,
            output_chars=self.settings.output_chars,
        )
        reservation = self.purse.reserve(1, num_tokens + max_tokens)
        try:
            sampling = replace(self.settings.root, num_samples=1, max_tokens=max_tokens)
            ((completion,),) = await generator.generate([prompt], sampling)
            spend = settled(self.purse, reservation, completion)
        finally:
            self.purse.release(reservation)  # what is settled stays
        if not completion.text.lstrip().startswith("```"):  # which opens the block once more
            completion = replace(completion, text=prompt.prefill + completion.text)
        self._note(completion, spend)
        return completion

    def _note(self, completion: Completion, spend: Spend) -> None:
        self.trace.add(
            "decide",
            f"turn {len(self._turns) + 1}",
            parent=self.event,
            detail=completion.text,
            num_prompt_tokens=spend.num_prompt_tokens,
            num_completion_tokens=spend.num_completion_tokens,
            seconds=0.0 if completion.is_cached else completion.seconds,
            is_cached=completion.is_cached,
        )

    async def _act(self, completion: Completion, move: Move) -> prompts.Turn:
        if move.is_cut and completion.finish_reason == "length":
            return self._refused("Your message was cut off, so nothing was run. Write less in one turn.")
        if move.code is not None:
            return await self._run(move.code, move.num_ignored)
        if move.final_var is not None:
            return await self._run(f"FINAL_VAR({move.final_var!r})")
        if move.final is None:
            refused = self._refused("There was no ```python block in your message, so nothing was run.")
            return replace(refused, had_no_code=True)
        if not self._has_read:
            return self._refused(
                "You have not looked at the input yet, so this is no answer. Read it by code."
            )
        if not move.final:
            return self._refused("The answer is empty.")
        self._final = move.final
        return prompts.Turn(said="", told="")

    def _refused(self, why: str) -> prompts.Turn:
        self._num_errors += 1
        self.trace.add("error", why, parent=self.event)
        return prompts.Turn(said="", told=why)

    async def _run(self, code: str, num_ignored: int = 0) -> prompts.Turn:
        event = self.trace.add("cell", f"cell {len(self._turns) + 1}", parent=self.event, detail=code)
        num_cut = 0

        async def serve(call: Call) -> Sequence[Reply]:
            nonlocal num_cut
            replies = await self.broker.serve(call, event)
            num_cut += sum(reply.is_cut for reply in replies)
            return replies

        end = await self.session.run(code, serve)
        turn = self._ended(end.done) if end.done else _lost(end)
        is_error = end.done is None or end.done.error is not None
        self._num_errors = self._num_errors + 1 if is_error else 0
        if is_error:
            detail = f"{turn.told}\n{turn.failure}"
            self.trace.add("error", "the cell failed", parent=event, detail=detail)
        return replace(turn, told=_remarks(num_ignored, num_cut) + turn.told)

    def _ended(self, done: Done) -> prompts.Turn:
        self._has_read |= done.has_read
        self._content = done.answer
        self._final = done.final
        names = ", ".join(f"{name} ({kind})" for name, kind in done.names[-_MAX_SHOWN_NAMES:])
        told = f"Variables: {names}"
        if not done.error:
            return prompts.Turn(said="", told=told, output=done.output)
        line = f" in line {done.error.line} of the cell" if done.error.line else ""
        told += f"\nThe cell failed{line} with {done.error.type}:"
        return prompts.Turn(said="", told=told, failure=done.error.message, output=done.output)


def _remarks(num_ignored: int, num_cut: int) -> str:
    ignored = f"Only the first block was run; {num_ignored} more were not.\n" if num_ignored else ""
    cut = f"Cut off before its end: {count(num_cut, 'answer')} of a model. Ask for less at once.\n"
    return ignored + (cut if num_cut else "")


def _lost(end: CellEnd) -> prompts.Turn:
    lost = f"Lost: {', '.join(end.lost[:_MAX_SHOWN_NAMES])}." if end.lost else "Nothing of before is lost."
    return prompts.Turn(
        said="", told=f"The cell had no end, and nothing of it is kept: {end.failure}.\n{lost}"
    )
