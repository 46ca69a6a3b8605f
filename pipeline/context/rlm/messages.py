"""What a kernel says to the host. All of it may be forged: it is checked, bounded and only then read."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Failure = Literal["died", "timed_out", "spoke_nonsense"]
MAX_QUESTIONS = 10_000  # of one call
SubcallFailure = Literal["budget", "deadline", "depth", "too_long", "engine"]


class KernelError(Exception):
    """The kernel is of no use any more; its variables are gone unless a snapshot has them."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Output(_Message):
    """What a cell printed: head and tail, and the true length."""

    head: str
    tail: str
    num_chars: int = Field(ge=0, le=1 << 62)


class CellError(_Message):
    """The exception that a cell ended with."""

    type: str = Field(max_length=200)
    message: str = Field(max_length=2000)
    line: int | None = Field(ge=0, le=1 << 31)  # of the cell; None where it is not the cell's


class Ready(_Message):
    """The kernel waits for its first message."""

    type: Literal["ready"]


class Restored(_Message):
    """The snapshot was taken up, but for some names."""

    type: Literal["restored"]
    lost: list[str]


class LlmCall(_Message):
    """Prompts for a model."""

    type: Literal["call"]
    function: Literal["llm_query"]
    questions: list[str] = Field(max_length=MAX_QUESTIONS)


class RlmCall(_Message):
    """Questions for a REPL of their own, each with its text or texts."""

    type: Literal["call"]
    function: Literal["rlm_query"]
    questions: list[tuple[str, str | list[str]]] = Field(max_length=MAX_QUESTIONS)


class Done(_Message):
    """A cell has ended."""

    type: Literal["done"]
    cell: int
    output: Output
    error: CellError | None
    final: str | None  # the answer, where the cell gave it
    answer: str  # what the variable `answer` holds so far
    has_read: bool  # whether any cell has looked at the input
    names: list[tuple[str, str]]  # with what they are
    variables: dict[str, str]  # pickled, base64; only another kernel unpickles them
    modules: dict[str, str]
    definitions: dict[str, str]  # functions and classes of cells with their source, in order


Call = LlmCall | RlmCall
Message = Ready | Restored | Call | Done
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Message)


class Reply(BaseModel):
    """What became of one question of a call."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    text: str = ""
    kind: SubcallFailure | Literal[""] = ""
    message: str = ""
    partial: str = ""  # a best effort, where there is no answer
    is_cut: bool = False  # at the limit of its length, or in a loop: there was more to say

    @property
    def is_refusal(self) -> bool:
        """Whether nobody was even asked."""
        return not self.ok and self.kind != "engine"

    @classmethod
    def failed(cls, kind: SubcallFailure, message: str, partial: str = "") -> Reply:
        """Return what raises a SubcallError in the cell."""
        return cls(ok=False, kind=kind, message=message[:2000], partial=partial)


def read_message(line: bytes) -> Message:
    """Return the message that a line holds.

    Raises:
        KernelError: it holds none.
    """
    try:
        return _ADAPTER.validate_json(line)
    except (ValidationError, RecursionError) as exc:
        raise KernelError("spoke_nonsense", f"the REPL sent what is no message: {line[:100]!r}") from exc


def line_of(message: dict[str, object]) -> bytes:
    """Return a message to the kernel as a line."""
    return json.dumps(message).encode() + b"\n"
