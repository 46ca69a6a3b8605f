"""Published configs are read key by key: what sets another function is refused by its name."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

import model
from model.checkpoints import read_config
from model.exceptions import CheckpointError, LoopConfigError

PUBLISHED = json.loads((Path(model.__file__).parent / "published_configs.json").read_text("utf-8"))


def published(name: str, **changes: Any) -> dict[str, Any]:
    return {**PUBLISHED[name]["config"], **changes}


def test_ouro() -> None:
    config = read_config(published("ouro-1.4b", early_exit_threshold=0.8))
    assert (config.family, config.num_core_layers, config.recurrence_depth) == ("ouro", 24, 4)
    assert config.block.norm_placement == "sandwich"
    assert (config.exit_rule, config.exit_threshold) == ("hazard", 0.8)
    assert config.block.rope.theta == 1e6


def test_iquest_loop_reads_its_window_from_the_config() -> None:
    config = read_config(published("iquest-coder-40b-loop-thinking"))
    assert (config.family, config.window_size, config.recurrence_depth) == ("iquest-loop", 8192, 2)
    assert not config.norms_each_pass
    assert config.block.norm_eps == 1e-5


def test_nanbeige_has_its_own_head_width_and_norms_between_loops() -> None:
    config = read_config(published("nanbeige4.2-3b"))
    assert (config.family, config.recurrence_depth, config.block.head_dim) == ("nanbeige", 2, 128)
    assert config.norms_each_pass
    assert not read_config(published("nanbeige4.2-3b", skip_loop_final_norm=True)).norms_each_pass


def test_huginn_scales_embeddings_and_norms_before_the_coda() -> None:
    config = read_config(published("huginn-0125"))
    assert (config.num_prelude_layers, config.num_core_layers, config.num_coda_layers) == (2, 4, 2)
    assert math.isclose(config.embedding_scale, math.sqrt(5280))
    assert config.norms_core_output
    assert config.state_noise_scale == 1.0
    assert config.block.rope.style == "pairs"


def test_a_retrofit_keeps_its_donor_s_positions_and_has_no_norm_before_the_coda() -> None:
    config = read_config(published("recurrent-llama-3.2"))
    assert (config.family, config.embedding_scale, config.norms_core_output) == ("retrofit", 1.0, False)
    assert (config.block.norm_placement, config.block.rope.style) == ("pre", "halves")
    assert config.block.rope.scaling is not None
    assert config.block.rope.scaling["rope_type"] == "llama3"
    assert config.state_noise_scale == pytest.approx(math.sqrt(2048 / 5280))  # its init_values are Huginn's
    olmo = read_config(
        published("recurrent-llama-3.2", auto_map={"AutoModel": "raven_modeling_minimal_olmo.X"})
    )
    assert (olmo.block.norm_placement, olmo.block.qk_norm) == ("output", "projection")


def test_parcae_has_value_embeddings_on_every_second_layer() -> None:
    config = read_config(published("parcae-370m"))
    assert config.value_embedding_layers == (1, 3, 5, 7, 9, 11)
    assert (config.injection, config.block.mlp_scale, config.tie_word_embeddings) == ("diagonal", 0.5, True)


def test_a_dense_checkpoint_gets_the_default_window_or_the_one_it_is_given() -> None:
    config = read_config(published("qwen2.5-coder-1.5b"))
    assert (config.core_start, config.core_stop, config.num_layers) == (12, 16, 28)
    assert (config.recurrence_depth, config.max_recurrence_depth) == (1, 4)
    loop = {"window_start": 3, "window_stop": 5, "step_rule": "damped", "max_recurrence_depth": 6}
    config = read_config(
        published("qwen2.5-coder-1.5b", loopwright_loop={**loop, "kv_policy": "single_restored"})
    )
    assert (config.core_start, config.core_stop, config.step_rule) == (3, 5, "damped")
    assert (config.max_recurrence_depth, config.kv_policy) == (6, "single_restored")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("nanbeige4.2-3b", "emb_neighbor_num", 3),
        ("nanbeige4.2-3b", "insert_ngram_layer_idx", [0]),
        ("nanbeige4.2-3b", "enable_mhc", True),
        ("nanbeige4.2-3b", "enable_hyper_connection", True),
        ("nanbeige4.2-3b", "enable_depth_attention", True),
        ("nanbeige4.2-3b", "enable_double_loop_split", True),
        ("nanbeige4.2-3b", "loop_share_kv", True),
        ("nanbeige4.2-3b", "loop_loss_weights", [0.3]),
        ("nanbeige4.2-3b", "qk_layernorm", True),
        ("iquest-coder-40b-loop-instruct", "plt_clp_shift", True),
        ("iquest-coder-40b-loop-instruct", "clip_qkv", 8.0),
        ("ouro-1.4b", "attention_bias", True),
        ("ouro-1.4b", "use_sliding_window", True),
        ("ouro-1.4b", "hidden_act", "gelu"),
        ("ouro-1.4b", "layer_types", ["sliding_attention"] * 24),
        ("huginn-0125", "injection_type", "add"),
        ("huginn-0125", "test_time_noise", 0.1),
        ("huginn-0125", "n_layers", 9),
        ("huginn-0125", "qk_bias", False),
        ("parcae-370m", "injection_type", "linear"),
        ("parcae-370m", "prelude_norm", False),
        ("parcae-370m", "logit_softcap", 30.0),
        ("parcae-370m", "recurrent_embedding_dimension", 512),
        ("parcae-370m", "rope_settings", {"use_rope": True, "rope_condense_ratio": 2}),
        ("qwen2.5-coder-1.5b", "partial_rotary_factor", 0.5),
        ("qwen2.5-coder-1.5b", "num_experts", 8),
        ("qwen2.5-coder-1.5b", "loopwright_loop", {"window_strat": 3}),
    ],
)
def test_a_setting_that_is_not_implemented_is_named(name: str, key: str, value: Any) -> None:
    hidden = {"loopwright_loop": "window_strat"}.get(key, key)
    with pytest.raises(CheckpointError, match=hidden):
        read_config(published(name, **{key: value}))


def test_features_that_are_off_pass() -> None:
    off = {
        "enable_mhc": False,
        "insert_ngram_layer_idx": [],
        "emb_neighbor_num": None,
        "num_residual_streams": 4,
    }
    assert read_config(published("nanbeige4.2-3b", **off)) == read_config(published("nanbeige4.2-3b"))


def test_parcae_layers_whose_gate_and_embedding_do_not_meet_are_refused() -> None:
    with pytest.raises(CheckpointError, match="value embedding or its gate"):
        read_config(published("parcae-370m", n_layers_in_recurrent_block=3, mean_recurrence=8))


def test_a_missing_key_is_named() -> None:
    config = published("ouro-1.4b")
    del config["total_ut_steps"]
    with pytest.raises(CheckpointError, match="total_ut_steps"):
        read_config(config)


WRONG = ("x", -1, 0, [], {}, None, 1.5, True, math.nan, math.inf, [1], {"a": 1})


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_value_of_the_wrong_kind_is_refused_and_never_a_crash(name: str) -> None:
    config = published(name)
    for key in [*config, "loopwright_loop", "rope_parameters", "layer_types"]:
        for value in WRONG:
            try:
                read = read_config({**config, key: value})
            except (CheckpointError, LoopConfigError):
                continue
            assert read.block.hidden_size == read_config(config).block.hidden_size, (key, value)


@pytest.mark.parametrize("key", ["recurrence_depth", "window_start", "exit_threshold", "kv_policy"])
def test_a_choice_of_the_wrong_kind_is_named(key: str) -> None:
    wrong = 3 if key == "kv_policy" else "x"
    with pytest.raises(CheckpointError, match=key):
        read_config(published("qwen2.5-coder-1.5b", loopwright_loop={key: wrong}))


def test_architectures_that_are_not_implemented_say_so() -> None:
    with pytest.raises(CheckpointError, match="LoopCoder-v2 shifts states"):
        read_config({"model_type": "iquestpltcoder", "plt_num_loops": 2})
    with pytest.raises(CheckpointError, match="no adapter for model_type 'mamba'") as caught:
        read_config({"model_type": "mamba"})
    assert "huginn_raven" in caught.value.hint


def test_a_window_beyond_the_checkpoint_is_refused() -> None:
    loop = {"window_start": 26, "window_stop": 30}
    with pytest.raises(CheckpointError, match="the window ends at layer 30, the checkpoint at 28"):
        read_config(published("qwen2.5-coder-1.5b", loopwright_loop=loop))


def test_choices_that_contradict_the_family_are_refused() -> None:
    with pytest.raises(LoopConfigError):
        read_config(published("iquest-coder-40b-loop-instruct", loopwright_loop={"kv_policy": "single"}))
