"""Every looped family under vLLM, against the reference network, and requests that differ in one batch."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import LoopedConfig
from model.exits import ExitRequest
from model.families import PRESETS
from model.network import LoopedNetwork
from model.testing import save_tiny, tiny_config, tiny_network
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

pytestmark = pytest.mark.integration

THRESHOLDS = {"latent": 0.6, "hazard": 0.6, "kl": 0.5, "argmax": 1.0, "act": 0.6}


def served_config(family: str, **changes: Any) -> LoopedConfig:
    """A paged cache has no gaps, so a router's later passes read the first one's keys."""
    return tiny_config(family, **({"later_attention": "shared"} if family == "mor" else {}), **changes)


def running(
    config: LoopedConfig, folder: Path, **settings: Any
) -> Iterator[tuple[EngineProcess, LoopedNetwork]]:
    """An engine on a checkpoint in the family's published layout, and the reference network of the same."""
    network = tiny_network(config)
    save_tiny(network, folder)
    engine = EngineProcess(folder, config, **{"max_num_batched_tokens": CHUNK, **settings})
    yield engine, network
    engine.close()


def assert_follows(network: LoopedNetwork, asks: list[Ask], answers: list[Answer]) -> None:
    """Every logprob that the engine reported, and every choice it made, is the reference network's."""
    config = network.config
    for ask, answer in zip(asks, answers, strict=True):
        stop = ExitRequest(ask.exit_rule or config.exit_rule, ask.exit_threshold or config.exit_threshold)
        sequence = torch.tensor([*ask.token_ids, *answer.token_ids])
        logits_TV = network(sequence, depth=ask.depth, exit_request=stop).logits_TV
        logprobs_TV = logits_TV.log_softmax(-1)[len(ask.token_ids) - 1 : -1]
        assert tuple(logprobs_TV.argmax(-1).tolist()) == answer.token_ids
        for want_V, got in zip(logprobs_TV, answer.logprobs, strict=True):
            assert got == pytest.approx({t: want_V[t].item() for t in got}, abs=2e-5)


@pytest.mark.parametrize("family", PRESETS)
def test_family_in_one_mixed_batch_equals_the_reference_network(family: str, tmp_path: Path) -> None:
    config = served_config(family)
    depths = range(1, config.max_recurrence_depth + 1)
    asks = [Ask(prompt, depth, 10) for depth, prompt in itertools.product(depths, PROMPTS)]
    asks += [Ask(prompt, None, 10) for prompt in PROMPTS]
    for rule in config.exit_rules:  # with others, and with each other
        asks += [Ask(prompt, None, 10, None, rule, THRESHOLDS[rule]) for prompt in PROMPTS[:2]]
    for engine, network in running(config, tmp_path):
        assert_follows(network, asks, engine.ask(*asks))
        engine.compact_rows(False)
        assert_follows(network, asks, engine.ask(*asks))


@pytest.mark.parametrize("family", ["ouro", "iquest-loop", "huginn"])
def test_runner_v2s_state_lets_rows_leave_and_answers_the_same(family: str, tmp_path: Path) -> None:
    config = tiny_config(family)
    depths = range(1, config.max_recurrence_depth + 1)
    asks = [Ask(prompt, depth, 10) for depth, prompt in itertools.product(depths, PROMPTS)]
    reporting = [
        Ask(PROMPTS[0], None, 10, None, rule, THRESHOLDS[rule], wants_report=True)
        for rule in config.exit_rules
    ]
    asks += reporting
    worker = "tests.integration.v2_batches.StateDrivenWorker"
    for engine, network in running(config, tmp_path, worker_cls=worker, max_num_seqs=6):
        answers = engine.ask(*asks)
        assert_follows(network, asks, answers)
        assert [ask for ask, answer in zip(asks, answers, strict=True) if answer.report] == reporting
        assert engine.call(rows_of_passes)
        engine.compact_rows(False)
        assert_follows(network, asks, engine.ask(*asks))
        assert not engine.call(rows_of_passes)


def test_rows_that_stop_early_leave_and_later_deeper_tokens_find_their_last_pass(tmp_path: Path) -> None:
    config = tiny_config("ouro", kv_policy="last_exited")
    asks = [
        Ask(prompt, 4, 10, None, rule, THRESHOLDS[rule])
        for rule, prompt in itertools.product(config.exit_rules, PROMPTS)
    ]
    for engine, network in running(config, tmp_path):
        assert_follows(network, asks, engine.ask(*asks))
        [answer] = engine.ask(replace(asks[5], wants_report=True))
        report = answer.report
        assert len(set(report["depth_counts"])) > 1
        num_run = len(asks[5].token_ids) - answer.num_cached_tokens + len(answer.token_ids) - 1
        assert sum(report["depth_counts"].values()) == num_run


def test_report_of_a_request_says_what_each_pass_did(tmp_path: Path) -> None:
    config = tiny_config("ouro")
    for engine, network in running(config, tmp_path):
        answer, other = engine.ask(Ask(PROMPTS[1], 3, 5, wants_report=True), Ask(PROMPTS[2], 4))
        report = answer.report
        states = recorded_states(network, [*PROMPTS[1], *answer.token_ids[:-1]], 3)
        assert report["depth_counts"] == {"3": len(PROMPTS[1]) + 4}
        assert report["hidden_rms"] == pytest.approx(
            [float(after.square().mean(-1).sqrt().mean()) for _, after in states], rel=1e-4
        )
        assert report["latent_change"] == pytest.approx(
            [float(((a - b).norm(dim=-1) / a.norm(dim=-1)).mean()) for b, a in states], rel=1e-4
        )
        assert other.report is None


@pytest.mark.parametrize("family", ["iquest-loop", "huginn", "parcae"])
def test_two_tensor_parallel_ranks_compute_what_one_does(family: str, tmp_path: Path) -> None:
    config = tiny_config(family)
    config = replace(config, block=replace(config.block, num_key_value_heads=2))
    asks = [Ask(prompt, 1 + i % config.max_recurrence_depth, 8) for i, prompt in enumerate(PROMPTS)]
    ranks = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    one_core_each = {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, sorted(os.sched_getaffinity(0))[:2]))}
    for engine, network in running(config, tmp_path, environment=one_core_each, **ranks):
        assert_follows(network, asks, engine.ask(*asks))


def test_metrics_count_tokens_by_depth_and_what_each_pass_did(tmp_path: Path) -> None:
    config = tiny_config("ouro")
    metrics = {"additional_config": {"loop_metrics": True}}
    for engine, _ in running(config, tmp_path, **metrics):
        engine.ask(Ask(PROMPTS[0], 2, 4), Ask(PROMPTS[2], 3, 4))
        page = engine.call(prometheus_page)
    shallow, deep = len(PROMPTS[0]) + 3, len(PROMPTS[2]) + 3
    assert f'loopwright_loop_tokens_total{{depth="2"}} {shallow}.0' in page
    assert f'loopwright_loop_hidden_rms_count{{loop="3"}} {deep}.0' in page
    assert f'loopwright_loop_latent_change_count{{loop="1"}} {shallow + deep}.0' in page


def rows_of_passes(llm: Any) -> list[int]:
    [rows] = llm.collective_rpc("take_rows_of_passes")
    return rows


def prometheus_page(_: Any) -> str:
    from prometheus_client import generate_latest

    return generate_latest().decode()


def recorded_states(
    network: LoopedNetwork, tokens: list[int], depth: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class States:
        def start(self, _state_TD: torch.Tensor) -> None:
            pass

        def layer(self, *_: Any) -> None:
            pass

        def loop(self, _k: int, _rows: Any, before_AD: torch.Tensor, after_AD: torch.Tensor) -> None:
            seen.append((before_AD, after_AD))

    network(torch.tensor(tokens), depth=depth, recorder=States())
    return seen


HIT = len(LONG_PROMPT) // BLOCK_SIZE * BLOCK_SIZE


def test_a_deep_prefix_serves_shallower_requests_exactly_and_never_a_deeper_one(tmp_path: Path) -> None:
    asks = [Ask(LONG_PROMPT, depth) for depth in (3, 2, 1, 4, 3)]
    for engine, network in running(tiny_config("ouro"), tmp_path):
        answers = engine.ask_alone(*asks)
        assert [one.num_cached_tokens for one in answers] == [0, HIT, HIT, 0, HIT]
        assert_follows(network, asks, answers)


def test_behind_a_coda_no_depth_serves_another(tmp_path: Path) -> None:
    asks = [Ask(LONG_PROMPT, depth) for depth in (3, 2, 4, 3)]
    for engine, network in running(tiny_config("huginn"), tmp_path):
        answers = engine.ask_alone(*asks)
        assert [one.num_cached_tokens for one in answers] == [0, 0, 0, HIT]
        assert_follows(network, asks, answers)


def test_without_the_salt_of_the_scheduler_a_prefix_hit_gives_a_wrong_answer(tmp_path: Path) -> None:
    stock = "vllm.v1.core.sched.scheduler.Scheduler"
    for engine, network in running(tiny_config("huginn"), tmp_path, scheduler_cls=stock):
        engine.ask(Ask(LONG_PROMPT, 4))
        ask = Ask(LONG_PROMPT, 2)
        [mixed] = engine.ask(ask)
        assert mixed.num_cached_tokens > 0
        with pytest.raises(AssertionError):
            assert_follows(network, [ask], [mixed])


def test_two_thousand_random_admissions_each_equal_their_solo_run(tmp_path: Path) -> None:
    assert_random_admissions_equal_solo_runs(tmp_path, num_asks=200, num_admissions=2000)


def test_random_admissions_through_runner_v2s_state_equal_their_solo_run(tmp_path: Path) -> None:
    assert_random_admissions_equal_solo_runs(
        tmp_path, num_asks=60, num_admissions=400, worker_cls="tests.integration.v2_batches.StateDrivenWorker"
    )


def assert_random_admissions_equal_solo_runs(
    folder: Path, *, num_asks: int, num_admissions: int, **settings: Any
) -> None:
    config = tiny_config("ouro", kv_policy="last_exited")
    rng = random.Random(7)
    pool = [random_ask(rng, config) for _ in range(num_asks)]
    tight = {"num_gpu_blocks_override": 14, "max_model_len": 4 * BLOCK_SIZE, "max_num_seqs": 8}
    for engine, _ in running(config, folder, **tight, **settings):
        alone = dict(zip(pool, engine.ask_alone(*pool), strict=True))
        order = [rng.choice(pool) for _ in range(num_admissions)]
        finished, num_aborted = engine.call(admit_at_random, config, order, 11)
        assert engine.metric("vllm:num_preemptions") > 0
        assert len(finished) + num_aborted == len(order)
        assert num_aborted > num_admissions // 40
        for place, answer in finished.items():
            assert answer.token_ids == alone[order[place]].token_ids, order[place]


def random_ask(rng: random.Random, config: LoopedConfig) -> Ask:
    start, length = rng.randrange(90), rng.randrange(1, 60)
    rule = rng.choice((None, None, *config.exit_rules))
    return Ask(
        LONG_PROMPT[start : start + length],
        rng.randrange(1, config.max_recurrence_depth + 1),
        rng.randrange(1, 16),
        None,
        rule,
        THRESHOLDS[rule] if rule else None,
    )


def admit_at_random(
    llm: Any, config: LoopedConfig, asks: list[Ask], seed: int
) -> tuple[dict[int, Answer], int]:
    """Admit the requests a few at a time while others run, abort some; return the finished ones by place."""
    rng = random.Random(seed)
    engine = llm.llm_engine
    waiting = list(enumerate(asks))[::-1]
    finished: dict[int, Answer] = {}
    num_aborted = 0
    while waiting or engine.has_unfinished_requests():
        for _ in range(min(rng.randrange(4), len(waiting))):
            place, ask = waiting.pop()
            engine.add_request(str(place), *prompt_and_params(config, ask))
            if rng.random() < 0.05:
                engine.abort_request([str(place)], internal=False)
                num_aborted += 1
        for output in engine.step():
            if output.finished:
                finished[int(output.request_id)] = answer_of(output)
    return finished, num_aborted
