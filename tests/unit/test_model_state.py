"""The adapter for runner V2, which only CUDA runs: its state, fed with stub batches of the runner's shape."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.testing import tiny_config
from model.vllm_plugin.batch import LoopBatch

MAX_NUM_REQS = 4
MAX_NUM_TOKENS = 16


class StubModel(nn.Module):
    loop = tiny_config("ouro", recurrence_depth=1)


@pytest.fixture
def state() -> Any:
    from model.vllm_plugin.model_state import LoopedModelState

    config = SimpleNamespace(
        model_config=SimpleNamespace(
            get_inputs_embeds_size=lambda: 8,
            dtype=torch.float32,
            enable_prompt_embeds=False,
            uses_mrope=False,
            uses_xdrope_dim=0,
            max_model_len=64,
        ),
        scheduler_config=SimpleNamespace(max_num_seqs=MAX_NUM_REQS, max_num_batched_tokens=MAX_NUM_TOKENS),
    )
    return LoopedModelState(config, StubModel(), None, torch.device("cpu"))


def request(**extra_args: Any) -> SimpleNamespace:
    return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra_args or None))


def batch(slots_and_num_tokens: list[tuple[int, int]]) -> SimpleNamespace:
    """A batch, with padding behind its requests as graph replay has it."""
    slots, num_tokens = zip(*slots_and_num_tokens, strict=True)
    starts = np.concatenate([[0], np.cumsum(num_tokens)])
    return SimpleNamespace(
        num_reqs=len(slots),
        idx_mapping_np=np.array([*slots, 0]),
        query_start_loc_np=np.array([*starts, starts[-1]]),
    )


def inputs(state: Any, *slots_and_num_tokens: tuple[int, int]) -> LoopBatch:
    return state.prepare_inputs(batch(list(slots_and_num_tokens)), None)["loop_batch"]


def test_every_token_gets_its_requests_depth_and_padding_gets_1(state: Any) -> None:
    for slot, depth in enumerate((3, 1, 2)):
        state.add_request(slot, request(recurrence_depth=depth))
    got = inputs(state, (2, 3), (0, 1), (1, 2))
    assert got.depth_of_rows(8).tolist() == [2, 2, 2, 3, 1, 1, 1, 1]
    assert got.deepest == 3


def test_every_request_stops_by_its_own_rule(state: Any) -> None:
    state.add_request(0, request(recurrence_depth=4, exit_rule="latent", exit_threshold=0.25))
    state.add_request(1, request(recurrence_depth=2, exit_rule="none"))
    got = inputs(state, (1, 1), (0, 1))
    assert [(one.rule, one.threshold) for one in got.exits_R] == [("none", 1.0), ("latent", 0.25)]


@pytest.mark.parametrize(
    "successor", [request(), SimpleNamespace(sampling_params=None)], ids=["no depth", "does not sample"]
)
def test_recycled_slot_forgets_the_depth_of_its_last_request(state: Any, successor: SimpleNamespace) -> None:
    state.add_request(1, request(recurrence_depth=4))
    state.remove_request("first")
    state.add_request(1, successor)
    assert inputs(state, (1, 2)).depth_R.tolist() == [1]


def test_dummy_inputs_have_the_same_keys_and_run_every_pass(state: Any) -> None:
    state.add_request(0, request(recurrence_depth=2))
    real = state.prepare_inputs(batch([(0, 2)]), None)
    dummy = state.prepare_dummy_inputs(2, 8)
    assert dummy.keys() == real.keys()
    assert dummy["loop_batch"].depth_of_rows(8).tolist() == [4] * 8


def test_runner_v2_finds_the_state_through_the_model() -> None:
    from vllm.v1.worker.gpu.model_states import resolve_model_state_cls

    from model.vllm_plugin.looped import LoopedForCausalLM
    from model.vllm_plugin.model_state import LoopedModelState

    model = LoopedForCausalLM.__new__(LoopedForCausalLM)
    assert resolve_model_state_cls(None, model) is LoopedModelState


@pytest.mark.parametrize("method", ["__init__", "add_request", "prepare_inputs", "prepare_dummy_inputs"])
def test_vllms_interface_is_still_the_one_that_was_implemented(method: str) -> None:
    from vllm.v1.worker.gpu.model_states.interface import ModelState

    from model.vllm_plugin.model_state import LoopedModelState

    theirs = inspect.signature(getattr(ModelState, method)).parameters
    assert list(inspect.signature(getattr(LoopedModelState, method)).parameters) == list(theirs)
