"""A real vLLM in a real Ray actor, on a tiny random checkpoint. One engine serves the whole module."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from model.testing import make_tiny_qwen2
from pipeline.core import Completion, Message, Prompt, Sampling
from pipeline.exceptions import InputError
from workers.cluster import ClusterSettings, connect_or_start
from workers.engine.settings import EngineSettings
from workers.generator import RayGenerator, Replica

pytestmark = pytest.mark.integration

SAMPLING = Sampling(num_samples=3, temperature=1.0, seed=11, max_tokens=40)
_HOSTILE_PACKAGES = ("workers", "model", "pipeline", "random")


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory) -> Path:
    """A working directory whose modules would leave a trace if any process of ours imported them."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in _HOSTILE_PACKAGES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'imported')!r}, 'a').write({name!r})\n")
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory, hostile_folder, ray_state) -> Iterator[RayGenerator]:
    settings = ClusterSettings(
        engine=EngineSettings(
            model_path=str(make_tiny_qwen2(tmp_path_factory.mktemp("tiny"))),
            max_model_tokens=512,
            kv_cache_bytes=64 << 20,
        ),
        state_folder=ray_state,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(hostile_folder)
        generator = connect_or_start(settings, print)
    with generator:
        yield generator


def prompt(text: str, prefill: str = "") -> Prompt:
    return Prompt(messages=(Message("user", text),), prefill=prefill)


def texts(rows: list[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in row] for row in rows]


async def test_a_seed_gives_the_same_samples_in_a_batch_and_alone(generator):
    batch = texts(await generator.generate([prompt("one"), prompt("two")], SAMPLING))
    assert len({text for row in batch for text in row}) > 3  # they differ from each other
    for sample in range(3):
        alone = Sampling(num_samples=1, temperature=1.0, seed=11 + sample, max_tokens=40)
        assert texts(await generator.generate([prompt("two")], alone)) == [[batch[1][sample]]]


async def test_a_greedy_answer_is_told_in_steps_with_the_likeliest_other_tokens(generator):
    greedy = Sampling(max_tokens=12, num_alternatives=4)
    [[completion]] = await generator.generate([prompt("one")], greedy)
    assert len(completion.steps) == completion.num_completion_tokens == 12
    for step in completion.steps:
        logprobs = [logprob for _, logprob in step.alternatives]
        assert len(logprobs) in (3, 4)  # vLLM counts the token itself among them
        assert logprobs == sorted(logprobs, reverse=True)
        assert step.logprob >= logprobs[0]
    other = completion.steps[0].alternatives[0][0]
    [[branch]] = await generator.generate([prompt("one", prefill=other)], Sampling(max_tokens=4))
    assert branch.steps == ()


async def test_progress_is_reported_before_the_batch_is_done(generator):
    reports = []
    generator.on_progress = lambda *numbers: reports.append(numbers)
    try:
        rows = await generator.generate([prompt("one"), prompt("two")], SAMPLING)
    finally:
        generator.on_progress = None
    num_tokens = sum(c.num_completion_tokens for row in rows for c in row)
    assert reports[-1] == (6, 6, num_tokens)
    assert {done for done, _, _ in reports} >= {1, 2, 3, 4, 5, 6}


async def test_depths_run_together_as_they_run_alone(generator):
    samplings = [
        Sampling(recurrence_depth=depth, num_samples=2, temperature=1.0, max_tokens=40) for depth in (1, 2, 4)
    ]
    together = await asyncio.gather(*(generator.generate([prompt("deep")], each) for each in samplings))
    alone = [await generator.generate([prompt("deep")], each) for each in samplings]
    assert [texts(rows) for rows in together] == [texts(rows) for rows in alone]
    assert len({str(texts(rows)) for rows in alone}) > 1  # depth does something
    assert [rows[0][0].recurrence_depth for rows in alone] == [1, 2, 4]


@pytest.mark.parametrize("depth", [0, 5])
async def test_a_bad_depth_is_refused_while_others_run(generator, depth):
    running = asyncio.create_task(generator.generate([prompt("good")], SAMPLING))
    with pytest.raises(InputError, match="recurrence_depth must be a whole number from 1 to 4"):
        await generator.generate([prompt("bad")], Sampling(recurrence_depth=depth))
    assert len((await running)[0]) == 3


async def test_a_prompt_longer_than_the_window_is_refused_by_its_number(generator):
    with pytest.raises(InputError, match=r"prompt 1 has \d+ tokens .* window of 512"):
        await generator.generate([prompt("short"), prompt("x" * 600)], Sampling())


async def test_a_prompt_that_nearly_fills_the_window_gets_what_is_left(generator):
    [num_tokens] = await generator.count_tokens([prompt("x" * 480)])
    [[completion]] = await generator.generate([prompt("x" * 480)], Sampling(max_tokens=100, temperature=1.0))
    assert completion.num_prompt_tokens == num_tokens
    assert completion.num_completion_tokens <= 512 - num_tokens


async def test_the_answer_goes_on_from_the_prefill_and_does_not_repeat_it(generator):
    plain, prefilled = await generator.count_tokens([prompt("a"), prompt("a", prefill="def f(")])
    assert prefilled == plain + len("def f(")  # one byte is one token here: no turn was closed in between
    first, second = await generator.generate([prompt("a"), prompt("a", prefill="def f(")], SAMPLING)
    assert [c.text for c in first] != [c.text for c in second]
    assert not any(c.text.startswith("def f(") for c in second)


async def test_a_grammar_binds_the_answer_at_every_depth(generator):
    for depth in (1, 4):
        sampling = Sampling(
            grammar='root ::= "yes" | "no"', num_samples=4, temperature=1.0, recurrence_depth=depth
        )
        [row] = await generator.generate([prompt("well?")], sampling)
        assert {c.text for c in row} <= {"yes", "no"}
        assert {c.finish_reason for c in row} == {"stop"}


async def test_an_answer_that_loops_is_cut_off_long_before_its_limit(generator):
    looping = Sampling(grammar='root ::= "ab" root', max_tokens=400)
    [[completion]] = await generator.generate([prompt("again and again")], looping)
    assert completion.finish_reason == "repetition"
    assert completion.text == "ab" * 24  # twelve tokens, four times


async def test_a_broken_grammar_is_the_callers_fault(generator):
    with pytest.raises(InputError, match="grammar"):
        await generator.generate([prompt("well?")], Sampling(grammar="root ::= ("))


async def test_cancelling_ends_the_samples_in_the_engine(generator):
    [replica] = generator._replicas
    before = await replica.counters()
    batch = asyncio.create_task(
        generator.generate([prompt("long")] * 4, Sampling(num_samples=16, temperature=1.0, max_tokens=480))
    )
    await until_queue(replica, at_least=64)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    await until_queue(replica, at_most=0)
    assert (await replica.counters()).num_requests < before.num_requests + 64


def test_nothing_was_imported_from_the_folder_that_the_user_stands_in(generator, hostile_folder):
    assert not (hostile_folder / "imported").exists()


async def test_what_a_killed_engine_was_drafting_is_drafted_again_after_its_restart(generator):
    [replica] = generator._replicas
    sampling = Sampling(num_samples=8, temperature=1.0, seed=5, max_tokens=440)
    batch = asyncio.create_task(generator.generate([prompt("kill")], sampling))
    await until_queue(replica, at_least=1)  # not 8: on a fast machine some are done before it tells of all
    engine_process().kill()
    async with asyncio.timeout(240):
        disturbed = await batch
    undisturbed = await generator.generate([prompt("kill")], sampling)
    assert texts(disturbed) == texts(undisturbed)


async def until_queue(replica: Replica, *, at_least: int = 0, at_most: int = 1000) -> None:
    async with asyncio.timeout(60):
        while not at_least <= await replica.queue_length() <= at_most:  # noqa: ASYNC110 the engine tells by asking
            await asyncio.sleep(0.01)


def engine_process() -> psutil.Process:
    [process] = [p for p in psutil.Process().children(recursive=True) if "EngineCore" in "".join(p.cmdline())]
    return process
