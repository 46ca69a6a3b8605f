"""What was paid for once is never paid for again; what failed is tried again."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import TypeAdapter

from pipeline.core import (
    CapturedStream,
    Completion,
    Message,
    Outcome,
    PreparedEnvironment,
    Prompt,
    Sampling,
    SandboxRequest,
    SandboxResult,
)
from pipeline.ledger import LedgerGenerator, LedgerSandbox
from pipeline.testing import RecordingSandbox, ScriptedGenerator

ENVIRONMENT = PreparedEnvironment(environment_id="e", python="/usr/bin/python3", mounts=())
REQUEST = SandboxRequest(argv=("python", "-m", "pytest"), layers=(b"tar",), environment=ENVIRONMENT)
RESULT = SandboxResult(
    outcome=Outcome.EXITED,
    exit_code=1,
    stdout=CapturedStream(head=b"\xff\x00binary", num_bytes=8),
    collected={"junit.xml": b"<xml \xfe/>"},
    wall_seconds=1.5,
    peak_memory_bytes=4096,
)


def prompt(text: str) -> Prompt:
    return Prompt((Message("user", text),), prefill="```python\n")


async def test_a_finished_run_is_answered_from_the_ledger_byte_for_byte(tmp_path):
    inner = RecordingSandbox(respond=lambda _: RESULT)
    first = await LedgerSandbox(inner, tmp_path).run(REQUEST)
    again = await LedgerSandbox(inner, tmp_path).run(REQUEST)  # another process, the same folder
    assert first == again == RESULT
    assert len(inner.requests) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ("true",)},
        {"layers": (b"other",)},
        {"layers": (b"tar", b"more")},
        {"env": {"A": "1"}},
        {"environment": dataclasses.replace(ENVIRONMENT, environment_id="f")},
        {"collect": ("coverage.json",)},
        {"run_id": "second"},
    ],
)
async def test_any_difference_in_the_request_is_another_run(tmp_path, change):
    inner = RecordingSandbox(respond=lambda _: RESULT)
    ledger = LedgerSandbox(inner, tmp_path)
    await ledger.run(REQUEST)
    await ledger.run(dataclasses.replace(REQUEST, **change))
    assert len(inner.requests) == 2


async def test_an_infra_error_is_never_kept(tmp_path):
    answers = iter([SandboxResult(outcome=Outcome.INFRA_ERROR, error="engine gone"), RESULT])
    ledger = LedgerSandbox(RecordingSandbox(respond=lambda _: next(answers)), tmp_path)
    assert (await ledger.run(REQUEST)).outcome is Outcome.INFRA_ERROR
    assert await ledger.run(REQUEST) == RESULT


async def test_only_the_missing_prompts_are_drafted(tmp_path):
    inner = ScriptedGenerator(reply=lambda p, _s, i: f"{p.messages[0].content}-{i}")
    ledger = LedgerGenerator(inner, tmp_path)
    sampling = Sampling(num_samples=2, temperature=0.8)
    await ledger.generate([prompt("a")], sampling)
    answers = await ledger.generate([prompt("b"), prompt("a")], sampling)
    assert [[c.text for c in row] for row in answers] == [["b-0", "b-1"], ["a-0", "a-1"]]
    assert [[p.messages[0].content for p in prompts] for prompts, _ in inner.calls] == [["a"], ["b"]]
    assert [[c.is_cached for c in row] for row in answers] == [[False, False], [True, True]]


async def test_that_an_answer_was_kept_changes_nothing_in_it(tmp_path):
    ledger = LedgerGenerator(ScriptedGenerator(["said"]), tmp_path)
    first = await ledger.generate([prompt("a")], Sampling())
    again = await ledger.generate([prompt("a")], Sampling())
    assert first == again
    assert len({TypeAdapter(list[list[Completion]]).dump_json(answers) for answers in (first, again)}) == 1


async def test_another_sampling_is_drafted_anew(tmp_path):
    inner = ScriptedGenerator(reply=["x"])
    ledger = LedgerGenerator(inner, tmp_path)
    await ledger.generate([prompt("a")], Sampling(recurrence_depth=1))
    await ledger.generate([prompt("a")], Sampling(recurrence_depth=2))
    assert len(inner.calls) == 2


async def test_a_half_surrogate_in_an_answer_does_not_break_the_ledger(tmp_path):
    ledger = LedgerGenerator(ScriptedGenerator(reply=["bad \ud800 text"]), tmp_path)
    [[completion]] = await ledger.generate([prompt("a")], Sampling())
    assert completion.text == "bad ? text"


async def test_a_damaged_entry_counts_as_missing(tmp_path):
    inner = RecordingSandbox(respond=lambda _: RESULT)
    await LedgerSandbox(inner, tmp_path).run(REQUEST)
    [entry] = tmp_path.iterdir()
    entry.write_text("{}")
    assert await LedgerSandbox(inner, tmp_path).run(REQUEST) == RESULT
    assert len(inner.requests) == 2
