"""Requests and engine settings that would run the loop wrongly are refused in words, before anything runs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from model.checkpoints.native import CONFIG_KEY
from model.config import LoopedConfig
from model.exceptions import DepthError, EngineSetupError
from model.testing import tiny_config
from model.vllm_plugin.admission import admission_class
from model.vllm_plugin.serving import engine_kwargs, request_kwargs

OURO = tiny_config("ouro")
DENSE = tiny_config("training-free")


def validate_under_v1(params: Any, config: LoopedConfig = OURO) -> None:
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters

    validate_logits_processors_parameters([admission_class(config)], params)


def validate_under_v2(params: Any, config: LoopedConfig = OURO) -> None:
    from vllm.v1.worker.gpu.sample.logits_processor.loader import (
        build_custom_logits_processors_params_validator,
    )

    build_custom_logits_processors_params_validator([admission_class(config)])(params)


BOTH_RUNNERS = pytest.mark.parametrize("validate", [validate_under_v1, validate_under_v2])


@BOTH_RUNNERS
@pytest.mark.parametrize(
    "extra_args",
    [
        None,
        {},
        {"other": "x"},
        request_kwargs(OURO, 4),
        request_kwargs(OURO, 4, exit_rule="hazard", exit_threshold=0.7, wants_report=True),
        {"exit_rule": "none"},
    ],
)
def test_request_that_can_be_served_is_admitted(validate: Any, extra_args: dict | None) -> None:
    from vllm import SamplingParams

    validate(SamplingParams(extra_args=extra_args))


@BOTH_RUNNERS
@pytest.mark.parametrize("depth", [0, 5, True, 2.0, "2", None])
def test_request_with_any_other_depth_is_refused_as_the_clients_fault(validate: Any, depth: object) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="must be a whole number from 1 to 4"):
        validate(SamplingParams(extra_args={"recurrence_depth": depth}))


@pytest.mark.parametrize(
    ("config", "extra_args", "message"),
    [
        (OURO, {"exit_rule": "act"}, "exit_rule must be one of none, hazard, latent, kl, argmax, got 'act'"),
        (DENSE, {"exit_rule": "latent"}, "exit_rule must be one of none, got 'latent'"),
        (OURO, {"exit_rule": ["latent"]}, "must be one of none, hazard"),
        (DENSE, {"exit_threshold": 0.5}, "cannot stop early"),
        (OURO, {"exit_threshold": 0}, "above 0"),
        (OURO, {"exit_threshold": float("nan")}, "above 0"),
        (OURO, {"exit_threshold": "0.5"}, "above 0"),
        (OURO, {"exit_rule": "hazard", "exit_threshold": 1.5}, "must be a probability above 0, got 1.5"),
        (OURO, {"exit_rule": "argmax", "exit_threshold": 1.5}, "must be a whole number of passes"),
        (OURO, {"loop_report": "yes"}, "must be true or false"),
    ],
)
def test_request_with_an_impossible_exit_is_refused(
    config: LoopedConfig, extra_args: dict, message: str
) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=message):
        validate_under_v1(SamplingParams(extra_args=extra_args), config)


def test_arguments_of_a_request_are_checked_where_they_are_made() -> None:
    with pytest.raises(DepthError, match="from 1 to 4, got 9"):
        request_kwargs(OURO, 9)


def test_admission_class_leaves_logits_alone_under_either_runner() -> None:
    from model.vllm_plugin import admission

    cls = admission.LoopUpTo4By_latent
    logits = object()
    assert cls(None, None, False).apply(logits) is logits  # runner V1
    assert cls(None, None).apply(logits, None) is logits  # runner V2
    assert cls(None, None, False).is_argmax_invariant()
    assert not cls(None, None).add_request(0, None)


@pytest.mark.parametrize("name", ["LoopUpTo0By", "LoopUpToBy", "LoopUpTo4", "LoopUpTo4By_", "LoopUpTo4By_A"])
def test_name_without_limits_is_no_admission_class(name: str) -> None:
    from model.vllm_plugin import admission

    with pytest.raises(AttributeError):
        getattr(admission, name)


def vllm_config(config: LoopedConfig = OURO, **changes: Any) -> SimpleNamespace:
    values: dict[str, Any] = {
        "loop": config.to_json_dict(),
        "logits_processors": [admission_class(config)],
        "num_pipeline_ranks": 1,
        "num_tensor_ranks": 1,
        "num_context_ranks": 1,
        "use_ubatching": False,
        "speculative_config": None,
        "lora_config": None,
        "enable_prefix_caching": True,
    } | changes
    return SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(num_hidden_layers=6, **{CONFIG_KEY: values["loop"]}),
            logits_processors=values["logits_processors"],
        ),
        parallel_config=SimpleNamespace(
            pipeline_parallel_size=values["num_pipeline_ranks"],
            tensor_parallel_size=values["num_tensor_ranks"],
            decode_context_parallel_size=values["num_context_ranks"],
            prefill_context_parallel_size=1,
            use_ubatching=values["use_ubatching"],
        ),
        cache_config=SimpleNamespace(enable_prefix_caching=values["enable_prefix_caching"]),
        speculative_config=values["speculative_config"],
        lora_config=values["lora_config"],
    )


def test_engine_with_the_serving_arguments_runs_their_loop() -> None:
    from model.vllm_plugin.setup import checked_config

    settings = engine_kwargs(OURO)
    config = vllm_config(
        loop=settings["hf_overrides"][CONFIG_KEY], logits_processors=settings["logits_processors"]
    )
    assert checked_config(config) == OURO


ONE_SLOT = replace(OURO, kv_policy="single")


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (OURO, {"loop": None}, "no loop settings"),
        (OURO, {"logits_processors": None}, "nothing checks the depth"),
        (OURO, {"logits_processors": ["model.vllm_plugin.admission:LoopUpTo8By"]}, "nothing checks"),
        (OURO, {"num_pipeline_ranks": 2}, "pipeline ranks"),
        (OURO, {"num_context_ranks": 2}, "context-parallel ranks"),
        (OURO, {"use_ubatching": True}, "micro-batches"),
        (OURO, {"speculative_config": object()}, "speculative decoding"),
        (OURO, {"lora_config": object()}, "LoRA adapters"),
        (OURO, {"num_tensor_ranks": 4}, "heads do not divide"),
        (tiny_config("moeut"), {"num_tensor_ranks": 2}, "experts are not split"),
        (tiny_config("mor"), {}, "keys by recursion cannot be served"),
        (ONE_SLOT, {}, "prefix"),
        (replace(OURO, kv_policy="first_then_shared"), {}, "prefix"),
    ],
)
def test_engine_that_would_run_the_loop_wrongly_does_not_start(
    config: LoopedConfig, change: dict, message: str
) -> None:
    from model.vllm_plugin.setup import checked_config

    with pytest.raises(EngineSetupError, match=message):
        checked_config(vllm_config(config, **change))
