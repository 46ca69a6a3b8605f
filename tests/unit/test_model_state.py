"""The adapter for runner V2, which only CUDA runs: its state, fed with stub batches of the runner's shape.

tests/integration/test_looped_families.py has it drive vLLM's attention on a CPU.
"""

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
from model.vllm_plugin.reports import REPORTS_ATTRIBUTE, LoopTrace

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
        additional_config={},
    )
    return LoopedModelState(config, StubModel(), None, torch.device("cpu"))


def request(req_id: str, **extra_args: Any) -> SimpleNamespace:
    return SimpleNamespace(req_id=req_id, sampling_params=SimpleNamespace(extra_args=extra_args or None))


def batch(**num_tokens_by_id: int) -> SimpleNamespace:
    """A batch, with padding behind its requests as graph replay has it."""
    starts = np.concatenate([[0], np.cumsum(list(num_tokens_by_id.values()))])
    return SimpleNamespace(
        num_reqs=len(num_tokens_by_id),
        req_ids=list(num_tokens_by_id),
        query_start_loc_np=np.array([*starts, starts[-1]]),
    )


def inputs(state: Any, **num_tokens_by_id: int) -> LoopBatch:
    return state.prepare_inputs(batch(**num_tokens_by_id), None)["loop_batch"]


def test_every_token_gets_its_requests_depth_and_padding_gets_1(state: Any) -> None:
    for slot, (req_id, depth) in enumerate({"a": 3, "b": 1, "c": 2}.items()):
        state.add_request(slot, request(req_id, recurrence_depth=depth))
    got = inputs(state, c=3, a=1, b=2)
    assert got.depth_of_rows(8).tolist() == [2, 2, 2, 3, 1, 1, 1, 1]
    assert got.deepest == 3


def test_every_request_stops_by_its_own_rule(state: Any) -> None:
    state.add_request(0, request("a", recurrence_depth=4, exit_rule="latent", exit_threshold=0.25))
    state.add_request(1, request("b", recurrence_depth=2, exit_rule="none"))
    got = inputs(state, b=1, a=1)
    assert [(one.rule, one.threshold) for one in got.exits_R] == [("none", 1.0), ("latent", 0.25)]


@pytest.mark.parametrize(
    "successor",
    [request("b"), SimpleNamespace(req_id="b", sampling_params=None)],
    ids=["no depth", "does not sample"],
)
def test_recycled_slot_forgets_the_depth_of_its_last_request(state: Any, successor: SimpleNamespace) -> None:
    state.add_request(1, request("a", recurrence_depth=4))
    state.remove_request("a")
    state.add_request(1, successor)
    assert inputs(state, b=2).depth_R.tolist() == [1]


def test_dummy_inputs_have_the_same_keys_and_run_every_pass(state: Any) -> None:
    state.add_request(0, request("a", recurrence_depth=2))
    real = state.prepare_inputs(batch(a=2), None)
    dummy = state.prepare_dummy_inputs(2, 8)
    assert dummy.keys() == real.keys()
    assert dummy["loop_batch"].depth_of_rows(8).tolist() == [4] * 8


def traced(state: Any, **num_tokens_by_id: int) -> dict[str, Any]:
    """Run a batch whose rows all take two passes, and return the reports that its tokens bring."""
    wants_trace = inputs(state, **num_tokens_by_id).wants_trace
    if wants_trace:
        num_rows = sum(num_tokens_by_id.values())
        trace = LoopTrace(2, num_rows)
        trace.depth_T[:] = 2
        for k in range(2):
            trace.add(k, np.arange(num_rows), torch.ones(num_rows, 3), torch.full((num_rows, 3), 2.0))
        state.reporter.add(trace)
    output = SimpleNamespace()
    state.reporter.send_with(output)
    return getattr(output, REPORTS_ATTRIBUTE, {})


def test_reports_go_to_the_requests_that_want_one_and_grow_with_each_step(state: Any) -> None:
    state.add_request(0, request("a", recurrence_depth=2, loop_report=True))
    state.add_request(1, request("b", recurrence_depth=2))
    assert traced(state, b=2, a=3)["a"]["depth_counts"] == {"2": 3}
    assert traced(state, b=1) == {}
    reports = traced(state, a=1, b=1)
    assert list(reports) == ["a"]
    assert reports["a"] == {
        "depth_counts": {"2": 4},
        "latent_change": pytest.approx([0.5, 0.5]),
        "hidden_rms": pytest.approx([2.0, 2.0]),
    }


def test_preempted_request_starts_its_report_anew(state: Any) -> None:
    state.add_request(0, request("a", recurrence_depth=2, loop_report=True))
    traced(state, a=3)
    state.remove_request("a")
    state.add_request(0, request("a", recurrence_depth=2, loop_report=True))
    assert traced(state, a=4)["a"]["depth_counts"] == {"2": 4}


def test_backend_that_keeps_one_plan_at_a_time_lets_no_row_leave() -> None:
    from model.vllm_plugin.regroup import can_regroup

    def group(name: str, kernel_block_size: int | None = None) -> Any:
        backend = SimpleNamespace(get_name=lambda: name)
        return SimpleNamespace(backend=backend, kernel_block_size=kernel_block_size)

    assert can_regroup([[group("FLASH_ATTN")], [group("TRITON_ATTN")]])
    assert not can_regroup([[group("FLASH_ATTN")], [group("FLASHINFER")]])
    assert not can_regroup([[group("FLASH_ATTN", kernel_block_size=16)]])


def test_runner_v2_finds_the_state_through_the_model() -> None:
    from vllm.v1.worker.gpu.model_states import resolve_model_state_cls

    from model.vllm_plugin.looped import LoopedForCausalLM
    from model.vllm_plugin.model_state import LoopedModelState

    model = LoopedForCausalLM.__new__(LoopedForCausalLM)
    assert resolve_model_state_cls(None, model) is LoopedModelState


@pytest.mark.parametrize(
    "method", ["__init__", "add_request", "remove_request", "prepare_inputs", "prepare_dummy_inputs"]
)
def test_vllms_interface_is_still_the_one_that_was_implemented(method: str) -> None:
    from vllm.v1.worker.gpu.model_states.interface import ModelState

    from model.vllm_plugin.model_state import LoopedModelState

    theirs = inspect.signature(getattr(ModelState, method)).parameters
    assert list(inspect.signature(getattr(LoopedModelState, method)).parameters) == list(theirs)


def test_arguments_of_attention_come_first_as_vllm_hands_them_over() -> None:
    from vllm.v1.worker.gpu.model_states.interface import ModelState

    from model.vllm_plugin.model_state import LoopedModelState

    theirs = list(inspect.signature(ModelState.prepare_attn).parameters)
    assert list(inspect.signature(LoopedModelState.prepare_attn).parameters)[:6] == theirs[:6]
