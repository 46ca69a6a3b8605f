"""The adapter for runner V2, which only CUDA runs: its state, fed with stub batches of the runner's shape."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.loop import LoopConfig

MAX_NUM_REQS = 4
MAX_NUM_TOKENS = 16


class StubModel(nn.Module):
    loop = LoopConfig(window_start=1, window_stop=3, max_recurrence_depth=4)


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


def request(depth: int | None) -> SimpleNamespace:
    extra_args = None if depth is None else {"recurrence_depth": depth}
    return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra_args))


def batch(slots_and_num_tokens: list[tuple[int, int]]) -> SimpleNamespace:
    """A batch, with padding behind its requests as graph replay has it."""
    slots, num_tokens = zip(*slots_and_num_tokens, strict=True)
    starts = np.concatenate([[0], np.cumsum(num_tokens)])
    return SimpleNamespace(
        num_reqs=len(slots),
        idx_mapping_np=np.array([*slots, 0]),
        query_start_loc_np=np.array([*starts, starts[-1]]),
    )


def depths(inputs: dict[str, Any]) -> list[int]:
    return inputs["recurrence_depth"].tolist()


def test_every_token_gets_its_requests_depth_and_padding_gets_1(state: Any) -> None:
    for slot, depth in enumerate((3, 1, 2)):
        state.add_request(slot, request(depth))
    inputs = state.prepare_inputs(batch([(2, 3), (0, 1), (1, 2)]), None)
    assert depths(inputs) == [2, 2, 2, 3, 1, 1] + [1] * 10
    assert inputs["deepest_recurrence"] == 3


def test_batch_runs_as_deep_as_its_deepest_request_only(state: Any) -> None:
    for slot, depth in enumerate((4, 1, 2)):
        state.add_request(slot, request(depth))
    assert state.prepare_inputs(batch([(1, 1), (2, 1)]), None)["deepest_recurrence"] == 2
    assert state.prepare_inputs(batch([(1, 5)]), None)["deepest_recurrence"] == 1


@pytest.mark.parametrize(
    "successor", [request(None), SimpleNamespace(sampling_params=None)], ids=["no depth", "does not sample"]
)
def test_recycled_slot_forgets_the_depth_of_its_last_request(state: Any, successor: SimpleNamespace) -> None:
    state.add_request(1, request(4))
    state.remove_request("first")
    state.add_request(1, successor)
    inputs = state.prepare_inputs(batch([(1, 2)]), None)
    assert depths(inputs)[:2] == [1, 1]
    assert inputs["deepest_recurrence"] == 1


def test_smaller_batch_leaves_nothing_of_a_larger_one(state: Any) -> None:
    state.add_request(0, request(4))
    state.add_request(1, request(2))
    state.prepare_inputs(batch([(0, 16)]), None)
    assert depths(state.prepare_inputs(batch([(1, 3)]), None)) == [2, 2, 2] + [1] * 13


def test_dummy_inputs_have_the_same_keys_and_buffer_and_run_every_pass(state: Any) -> None:
    state.add_request(0, request(2))
    real = state.prepare_inputs(batch([(0, 2)]), None)
    address = real["recurrence_depth"].data_ptr()
    dummy = state.prepare_dummy_inputs(2, 8)
    assert dummy.keys() == real.keys()
    assert dummy["recurrence_depth"].data_ptr() == address
    assert dummy["deepest_recurrence"] == 4
    assert state.prepare_inputs(batch([(0, 1)]), None)["recurrence_depth"].data_ptr() == address


def test_runner_v2_finds_the_state_through_the_model() -> None:
    from vllm.v1.worker.gpu.model_states import resolve_model_state_cls

    from model.vllm_plugin.looped_qwen2 import LoopedQwen2ForCausalLM
    from model.vllm_plugin.model_state import LoopedModelState

    model = LoopedQwen2ForCausalLM.__new__(LoopedQwen2ForCausalLM, vllm_config=SimpleNamespace())
    assert resolve_model_state_cls(None, model) is LoopedModelState


@pytest.mark.parametrize("method", ["__init__", "add_request", "prepare_inputs", "prepare_dummy_inputs"])
def test_vllms_interface_is_still_the_one_that_was_implemented(method: str) -> None:
    from vllm.v1.worker.gpu.model_states.interface import ModelState

    from model.vllm_plugin.model_state import LoopedModelState

    theirs = inspect.signature(getattr(ModelState, method)).parameters
    assert list(inspect.signature(getattr(LoopedModelState, method)).parameters) == list(theirs)
