"""The looped model under vLLM, against stock vLLM and against the plain PyTorch reference."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model.checkpoints import read_config
from model.config import LoopedConfig
from model.loop import LoopConfig
from model.provision.checkpoints import open_checkpoint
from model.provision.convert import convert
from model.provision.cpu import computing_dtype
from model.testing import make_tiny_qwen2
from tests.integration.looped_engine import (
    BLOCK_SIZE,
    CHUNK,
    LONG_PROMPT,
    PROMPTS,
    Answer,
    Ask,
    EngineProcess,
    answer_of,
    prompt_and_params,
)
from tests.integration.qwen2_reference import ReferenceModel

pytestmark = pytest.mark.integration

NUM_LAYERS = 6
LOOP = LoopConfig.for_num_layers(NUM_LAYERS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen2(tmp_path_factory.mktemp("tiny"), num_layers=NUM_LAYERS)


def looped_config(checkpoint: Path, loop: LoopConfig) -> LoopedConfig:
    config = json.loads((checkpoint / "config.json").read_text())
    return read_config({**config, "loopwright_loop": loop.to_json_dict()})


def running(checkpoint: Path, loop: LoopConfig | None, **settings: Any) -> Iterator[EngineProcess]:
    config = looped_config(checkpoint, loop) if loop else None
    engine = EngineProcess(checkpoint, config, **settings)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def stock(checkpoint: Path) -> Iterator[EngineProcess]:
    yield from running(checkpoint, None, max_num_batched_tokens=CHUNK)


@pytest.fixture(scope="module")
def looped(checkpoint: Path) -> Iterator[EngineProcess]:
    """Chunked prefill and prefix caching on."""
    yield from running(checkpoint, LOOP, max_num_batched_tokens=CHUNK)


@pytest.fixture(scope="module")
def plain_serving(checkpoint: Path) -> Iterator[EngineProcess]:
    """The same loop without chunked prefill and without prefix caching."""
    yield from running(checkpoint, LOOP, max_num_batched_tokens=512, enable_prefix_caching=False)


def assert_same(got: list[Answer], want: list[Answer], tolerance: float = 1e-4) -> None:
    assert [answer.token_ids for answer in got] == [answer.token_ids for answer in want]
    for g, w in zip(got, want, strict=True):
        for g_step, w_step in zip(g.logprobs, w.logprobs, strict=True):
            assert g_step == pytest.approx(w_step, abs=tolerance, rel=1e-5)


def assert_follows(reference: ReferenceModel, asks: list[Ask], answers: list[Answer]) -> None:
    """Every logprob that the engine reported, and every choice it made, is the reference's, to 1e-5."""
    for ask, answer in zip(asks, answers, strict=True):
        sequence = [*ask.token_ids, *answer.token_ids]
        logprobs_TV = reference.logits(sequence, ask.depth).log_softmax(-1)[len(ask.token_ids) - 1 : -1]
        assert tuple(logprobs_TV.argmax(-1).tolist()) == answer.token_ids
        for want_V, got in zip(logprobs_TV, answer.logprobs, strict=True):
            assert got == pytest.approx({t: want_V[t].item() for t in got}, abs=1e-5)


def test_depth_1_equals_stock_vllm_token_for_token(stock: EngineProcess, looped: EngineProcess) -> None:
    asks = [Ask(prompt, num_tokens=40) for prompt in PROMPTS]
    want = stock.ask(*asks)
    assert looped.ask(*asks) == want  # bit for bit, without a depth ...
    assert_same(looped.ask(*[Ask(a.token_ids, 1, 40) for a in asks]), want)  # ... and with


def test_depth_changes_what_is_sampled(looped: EngineProcess) -> None:
    answers = looped.ask(*[Ask(LONG_PROMPT, depth, 24) for depth in (1, 2, 3, 4)])
    for one, other in itertools.combinations(answers, 2):
        assert one.token_ids != other.token_ids


def test_mixed_depth_batch_equals_each_request_alone(looped: EngineProcess) -> None:
    # Different lengths, so that rows enter, leave and move while others run.
    asks = [
        Ask(prompt, depth, 8 + 7 * depth + i)
        for depth, (i, prompt) in itertools.product((1, 2, 3, 4), enumerate(PROMPTS))
    ]
    assert_same(looped.ask(*asks), looped.ask_alone(*asks))


def test_chunked_prefill_equals_whole_prefill(looped: EngineProcess, plain_serving: EngineProcess) -> None:
    asks = [Ask(LONG_PROMPT[i:], depth) for i, depth in enumerate((1, 2, 4))]
    assert_same(looped.ask(*asks), plain_serving.ask(*asks))


def test_seeded_samples_do_not_depend_on_how_the_prompt_was_chunked(
    looped: EngineProcess, plain_serving: EngineProcess
) -> None:
    asks = [Ask(LONG_PROMPT[20 + i :], depth, seed=i) for i, depth in enumerate((1, 2, 4))]
    got = looped.ask(*asks)
    assert_same(got, plain_serving.ask(*asks))
    reseeded = [dataclasses.replace(ask, seed=ask.seed + 9) for ask in asks]
    assert [answer.token_ids for answer in looped.ask(*reseeded)] != [answer.token_ids for answer in got]


def test_prefix_cache_keeps_depths_apart(looped: EngineProcess, plain_serving: EngineProcess) -> None:
    prompt = LONG_PROMPT[7:]
    asks = [Ask(prompt, depth) for depth in (2, 3, 2, 3, 1, 4)]
    got = looped.ask_alone(*asks)
    hit = len(prompt) // BLOCK_SIZE * BLOCK_SIZE
    assert [answer.num_cached_tokens for answer in got] == [0, 0, hit, hit, 0, 0]
    assert_same(got, plain_serving.ask_alone(*asks))


def test_anchored_loop_equals_the_reference(
    checkpoint: Path, looped: EngineProcess, plain_serving: EngineProcess
) -> None:
    asks = [Ask(prompt, depth) for prompt, depth in zip(PROMPTS, (1, 2, 3, 4), strict=True)]
    reference = ReferenceModel(checkpoint, LOOP)
    assert_follows(reference, asks, looped.ask(*asks))
    assert_follows(reference, asks, plain_serving.ask_alone(*asks))


def test_preemption_keeps_every_depth(tmp_path: Path) -> None:
    loop = LoopConfig(window_start=2, window_stop=5, step_rule="damped", max_recurrence_depth=3)
    tied = make_tiny_qwen2(tmp_path, num_layers=NUM_LAYERS, tie_word_embeddings=True, seed=1)
    asks = [Ask(LONG_PROMPT[i : i + 40], 1 + i % 3, 60) for i in range(6)]  # 4 blocks each in the end
    twelve_blocks = {"num_gpu_blocks_override": 12, "max_model_len": 4 * BLOCK_SIZE}
    for engine in running(tied, loop, max_num_batched_tokens=CHUNK, **twelve_blocks):
        alone = engine.ask_alone(*asks)
        assert engine.metric("vllm:num_preemptions") == 0
        together = engine.ask(*asks)
        assert engine.metric("vllm:num_preemptions") > 0
        assert_same(together, alone)
        assert_follows(ReferenceModel(tied, loop), asks, together)


def test_plain_loop_over_the_whole_stack_equals_the_reference(checkpoint: Path) -> None:
    loop = LoopConfig(window_start=0, window_stop=NUM_LAYERS, step_rule="plain", max_recurrence_depth=2)
    asks = [Ask(prompt, 1 + i % 2) for i, prompt in enumerate(PROMPTS)]
    for engine in running(checkpoint, loop):
        assert_follows(ReferenceModel(checkpoint, loop), asks, engine.ask(*asks))


def test_int8_checkpoint_loops(checkpoint: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(checkpoint), tmp_path, "int8", lambda _: None)
    plain = [Ask(prompt) for prompt in PROMPTS]
    mixed = [Ask(prompt, depth) for prompt, depth in zip(PROMPTS, (1, 2, 3, 4), strict=True)]
    dtype = computing_dtype("float32", is_quantised=True)
    for engine in running(tmp_path, None, dtype=dtype):
        want = engine.ask(*plain)
    for engine in running(tmp_path, LOOP, dtype=dtype):
        assert engine.ask(*plain) == want
        answers = engine.ask(*mixed)
        assert_same(answers, engine.ask_alone(*mixed))
        assert_same(answers[:1], want[:1])
        assert all(answers[i].token_ids != want[i].token_ids for i in (1, 2, 3))


@pytest.mark.parametrize("bad_depth", [0, 5, -1, True, 2.0, "2", None, [2], 1 << 40])
def test_bad_depth_is_refused_while_a_batch_runs_and_the_batch_is_unharmed(
    looped: EngineProcess, bad_depth: object
) -> None:
    asks = [Ask(prompt, depth) for prompt, depth in zip(PROMPTS, (4, 3, 2, 1), strict=True)]
    answers, message = looped.call(_refuse_in_the_middle, looped.loop, asks, bad_depth)
    assert message == f"recurrence_depth must be a whole number from 1 to 4, got {bad_depth!r}"
    assert_same(answers, looped.ask(*asks))


def _refuse_in_the_middle(llm: Any, loop: LoopedConfig, asks: list[Ask], bad_depth: object) -> Any:
    from vllm.exceptions import VLLMValidationError

    engine = llm.llm_engine
    for i, ask in enumerate(asks):
        engine.add_request(str(i), *prompt_and_params(loop, ask))
    outputs = {}
    message = ""
    for step in itertools.count():
        if step == 5:
            prompt, params = prompt_and_params(loop, Ask(LONG_PROMPT, 1))
            params.extra_args = {"recurrence_depth": bad_depth}
            try:
                engine.add_request("bad", prompt, params)
            except VLLMValidationError as error:
                message = str(error)
        outputs |= {output.request_id: output for output in engine.step() if output.finished}
        if not engine.has_unfinished_requests():
            break
    return [answer_of(outputs[str(i)]) for i in range(len(asks))], message


def test_plugin_that_was_not_loaded_is_an_error_before_any_engine_starts() -> None:
    code = "from model.vllm_plugin.serving import assert_registered; assert_registered()"
    for plugins, exit_code in (("loopwright", 0), ("another", 1)):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "VLLM_PLUGINS": plugins},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == exit_code, result.stderr
    assert "EngineSetupError: vLLM does not know LoopedForCausalLM" in result.stderr
