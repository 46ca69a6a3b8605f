"""Rows of many requests in one batch: which of them run a pass, and what attention is told of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import LoopedConfig
from model.exits import ExitRequest
from model.requests import loop_request
from model.testing import tiny_config
from model.vllm_plugin.batch import NOWHERE, LoopBatch, only_rows, segments

REQUESTS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=5)


@given(REQUESTS, st.data())
def test_runs_of_rows_are_queries_that_see_what_each_row_saw_in_its_own_request(
    requests: list[tuple[int, int]], data: st.DataObject
) -> None:
    num_computed_R, num_tokens_R = (np.array(one) for one in zip(*requests, strict=True))
    starts = np.concatenate([[0], np.cumsum(num_tokens_R)])
    rows = data.draw(st.sets(st.integers(0, int(starts[-1]) - 1), min_size=1))
    rows_A = np.array(sorted(rows))
    runs = segments(rows_A, starts, num_computed_R)
    seen = []  # (request, tokens seen) of each row, as causal attention over the runs has it
    for i, request in enumerate(runs.request):
        length = runs.query_start_loc[i + 1] - runs.query_start_loc[i]
        seen += [(request, runs.seq_lens[i] - length + 1 + j) for j in range(length)]
    owner = np.repeat(np.arange(len(requests)), num_tokens_R)
    want = [(owner[row], num_computed_R[owner[row]] + row - starts[owner[row]] + 1) for row in rows_A]
    assert seen == want


def test_whole_requests_stay_whole_queries() -> None:
    runs = segments(np.array([3, 4, 5, 6]), np.array([0, 3, 5, 7]), np.array([9, 0, 20]))
    assert runs.query_start_loc.tolist() == [0, 2, 4]
    assert runs.seq_lens.tolist() == [2, 22]
    assert runs.request.tolist() == [1, 2]


def test_every_token_gets_its_requests_depth_and_padding_gets_1() -> None:
    batch = LoopBatch(np.array([3, 1]), np.array([2, 3]), [ExitRequest("latent", 0.1), ExitRequest()])
    assert batch.depth_of_rows(7).tolist() == [3, 3, 1, 1, 1, 1, 1]
    assert [one.rule for one in batch.exits_of_rows(7)] == ["latent"] * 2 + ["none"] * 5
    assert batch.deepest == 3


def test_a_profiling_run_of_any_size_runs_every_pass() -> None:
    batch = LoopBatch.profiling(4, 64)
    for num_rows in (1, 64):
        assert batch.depth_of_rows(num_rows).tolist() == [4] * num_rows
        assert len(batch.exits_of_rows(num_rows)) == num_rows


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    import vllm.forward_context as forward_context

    mapping = torch.tensor([5, 6, 7, 8])
    one = SimpleNamespace(attn_metadata={"a": "all"}, slot_mapping={"a": mapping, "b": mapping})
    monkeypatch.setattr(forward_context, "_forward_context", one)
    return one


def batch_of(regroup: Any = None) -> LoopBatch:
    return LoopBatch(np.array([2]), np.array([4]), [ExitRequest()], regroup)


def test_rows_that_are_done_write_nowhere_where_they_cannot_leave(context: SimpleNamespace) -> None:
    with only_rows(batch_of(), np.array([1, 3]), 4) as is_gathered:
        assert not is_gathered
        assert context.slot_mapping["a"].tolist() == [NOWHERE, 6, NOWHERE, 8]
        assert context.attn_metadata == {"a": "all"}
    assert context.slot_mapping["b"].tolist() == [5, 6, 7, 8]


def test_attention_sees_the_rows_alone_while_they_run_and_all_of_them_afterwards(
    context: SimpleNamespace,
) -> None:
    def regroup(rows_A: np.ndarray) -> Any:
        return {"a": rows_A.tolist()}, {"a": "theirs"}

    with only_rows(batch_of(regroup), np.array([1, 3]), 4) as is_gathered:
        assert is_gathered
        assert context.attn_metadata == {"a": [1, 3]}
        assert context.slot_mapping == {"a": "theirs"}
    assert context.attn_metadata == {"a": "all"}


def test_a_batch_of_one_depth_is_left_as_it_is(context: SimpleNamespace) -> None:
    with only_rows(batch_of(), np.arange(4), 4) as is_gathered:
        assert not is_gathered
        assert context.slot_mapping["a"].tolist() == [5, 6, 7, 8]


def test_a_request_that_names_nothing_runs_as_the_checkpoint_says() -> None:
    config: LoopedConfig = tiny_config("universal-transformer")
    asked = loop_request(None, config)
    assert (asked.recurrence_depth, asked.exit_rule, asked.exit_threshold) == (3, "act", 0.99)
    [stops] = LoopBatch.of_requests([asked], np.array([0, 1]), config, None, False).exits_R
    assert stops == ExitRequest("act", 0.99, 1)
