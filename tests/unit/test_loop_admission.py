"""Requests and engine settings that would run the loop wrongly are refused in words, before anything runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from model.exceptions import EngineSetupError, LoopConfigError
from model.loop import LoopConfig
from model.vllm_plugin.serving import LOOP_KEY, admission_class, engine_kwargs, request_kwargs

LOOP = LoopConfig(window_start=1, window_stop=3, max_recurrence_depth=4)


def validate_under_v1(params: Any) -> None:
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters

    validate_logits_processors_parameters([admission_class(LOOP)], params)


def validate_under_v2(params: Any) -> None:
    from vllm.v1.worker.gpu.sample.logits_processor.loader import (
        build_custom_logits_processors_params_validator,
    )

    build_custom_logits_processors_params_validator([admission_class(LOOP)])(params)


BOTH_RUNNERS = pytest.mark.parametrize("validate", [validate_under_v1, validate_under_v2])


@BOTH_RUNNERS
@pytest.mark.parametrize("extra_args", [None, {}, {"other": "x"}, request_kwargs(LOOP, 4).extra_args])
def test_request_with_a_servable_depth_or_none_is_admitted(validate: Any, extra_args: dict | None) -> None:
    from vllm import SamplingParams

    validate(SamplingParams(extra_args=extra_args))


@BOTH_RUNNERS
@pytest.mark.parametrize("depth", [0, 5, True, 2.0, "2", None])
def test_request_with_any_other_depth_is_refused_as_the_clients_fault(validate: Any, depth: object) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="must be a whole number from 1 to 4"):
        validate(SamplingParams(extra_args={"recurrence_depth": depth}))


def test_admission_class_leaves_logits_alone_under_either_runner() -> None:
    from model.vllm_plugin import admission

    cls = admission.RecurrenceDepthUpTo4
    logits = object()
    assert cls(None, None, False).apply(logits) is logits  # runner V1
    assert cls(None, None).apply(logits, None) is logits  # runner V2
    assert cls(None, None, False).is_argmax_invariant()
    assert not cls(None, None).add_request(0, None)


@pytest.mark.parametrize("name", ["RecurrenceDepthUpTo0", "RecurrenceDepthUpTo", "RecurrenceDepthUpTo4x"])
def test_name_without_a_limit_is_no_admission_class(name: str) -> None:
    from model.vllm_plugin import admission

    with pytest.raises(AttributeError):
        getattr(admission, name)


def vllm_config(**changes: Any) -> SimpleNamespace:
    values: dict[str, Any] = {
        "loop": LOOP.to_json_dict(),
        "logits_processors": [admission_class(LOOP)],
        "num_pipeline_ranks": 1,
        "speculative_config": None,
    } | changes
    return SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(num_hidden_layers=6, **{LOOP_KEY: values["loop"]}),
            logits_processors=values["logits_processors"],
        ),
        parallel_config=SimpleNamespace(pipeline_parallel_size=values["num_pipeline_ranks"]),
        speculative_config=values["speculative_config"],
    )


def test_engine_with_the_serving_arguments_runs_their_loop() -> None:
    from model.vllm_plugin.looped_qwen2 import checked_loop

    settings = engine_kwargs(LOOP)
    config = vllm_config(
        loop=settings["hf_overrides"][LOOP_KEY], logits_processors=settings["logits_processors"]
    )
    assert checked_loop(config) == LOOP


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loop": None}, "no loop settings"),
        ({"logits_processors": None}, "nothing checks the depth"),
        ({"logits_processors": ["model.vllm_plugin.admission:RecurrenceDepthUpTo8"]}, "nothing checks"),
        ({"num_pipeline_ranks": 2}, "pipeline ranks"),
        ({"speculative_config": object()}, "speculative decoding"),
    ],
)
def test_engine_that_would_run_the_loop_wrongly_does_not_start(change: dict, message: str) -> None:
    from model.vllm_plugin.looped_qwen2 import checked_loop

    with pytest.raises(EngineSetupError, match=message):
        checked_loop(vllm_config(**change))


def test_window_beyond_the_checkpoint_is_refused() -> None:
    from model.vllm_plugin.looped_qwen2 import checked_loop

    loop = LoopConfig(window_start=4, window_stop=8)
    with pytest.raises(LoopConfigError, match="ends at layer 8, the checkpoint at 6"):
        checked_loop(vllm_config(loop=loop.to_json_dict(), logits_processors=[admission_class(loop)]))
