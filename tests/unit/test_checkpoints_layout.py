"""A published checkpoint of any family is read as what it is, or refused with the name of what is wrong."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints import adapter_for, read_config
from model.checkpoints.loading import checked_tensors, load_network, save_checkpoint
from model.exceptions import CheckpointError
from model.families import PRESETS
from model.provision.quantise import quantise_tensors
from model.testing import make_tiny_checkpoint, tiny_config, tiny_network

FAMILIES = sorted(PRESETS)
# A tensor of each published layout; two stand for several canonical ones.
A_TENSOR = {
    "iquest-loop": "model.gate_projections.1.weight",
    "ouro": "model.layers.0.post_attention_layernorm_2.weight",
    "nanbeige": "model.layers.1.mlp.gate_proj.weight",
    "huginn": "transformer.core_block.1.attn.Wqkv.weight",
    "parcae": "transformer.adapter.A_log",
    "retrofit": "transformer.coda.0.mlp.fc.weight",
    "training-free": "model.layers.3.self_attn.k_proj.weight",
}


def change_tensors(folder: Path, **changes: Any) -> None:
    """Replace tensors, or remove those that are None."""
    tensors = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, changes: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_saved_checkpoint_loads_as_the_same_network(family: str, is_tied: bool, tmp_path: Path) -> None:
    network = tiny_network(tiny_config(family, tie_word_embeddings=is_tied))
    loaded = load_network(save_checkpoint(network, tmp_path))
    assert loaded.config == network.config
    expected, got = network.state_dict(), loaded.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    ids_T = torch.arange(20)
    assert torch.equal(loaded(ids_T).logits_TV, network(ids_T).logits_TV)


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_stream_through_the_names_and_back(family: str, tmp_path: Path) -> None:
    network = tiny_network(tiny_config(family))
    adapter = adapter_for(network.config)
    published = dict(adapter.published(network.state_dict()))
    canonical = dict(pair for name, one in published.items() for pair in adapter.canonical(name, one))
    assert canonical.keys() == dict(network.named_parameters()).keys()
    again = dict(adapter.published(canonical))
    assert all(torch.equal(published[name], again[name]) for name in published)


@pytest.mark.parametrize(("family", "name"), sorted(A_TENSOR.items()))
def test_a_missing_tensor_is_named(family: str, name: str, tmp_path: Path) -> None:
    make_tiny_checkpoint(family, tmp_path)
    change_tensors(tmp_path, **{name: None})
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load_network(tmp_path)


@pytest.mark.parametrize(("family", "name"), sorted(A_TENSOR.items()))
def test_a_tensor_of_another_shape_is_named(family: str, name: str, tmp_path: Path) -> None:
    make_tiny_checkpoint(family, tmp_path)
    change_tensors(tmp_path, **{name: torch.zeros(7, 5)})
    with pytest.raises(CheckpointError, match=name):
        load_network(tmp_path)


@pytest.mark.parametrize(("family", "name"), sorted(A_TENSOR.items()))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_with_a_value_that_is_no_number_is_named(
    family: str, name: str, value: float, tmp_path: Path
) -> None:
    make_tiny_checkpoint(family, tmp_path)
    tensor = load_file(tmp_path / "model.safetensors")[name]
    tensor.view(-1)[3] = value
    change_tensors(tmp_path, **{name: tensor})
    with pytest.raises(CheckpointError, match=f"{name} holds 1 values that are NaN or infinite"):
        load_network(tmp_path)


@pytest.mark.parametrize("family", sorted(A_TENSOR))
@pytest.mark.parametrize("name", ["model.layers.0.self_attn.mystery.weight", "lm_head.bias"])
def test_an_extra_tensor_is_named(family: str, name: str, tmp_path: Path) -> None:
    make_tiny_checkpoint(family, tmp_path)
    change_tensors(tmp_path, **{name: torch.zeros(3)})
    with pytest.raises(CheckpointError, match=name):
        load_network(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_key_is_named(family: str, tmp_path: Path) -> None:
    make_tiny_checkpoint(family, tmp_path)
    change_config(tmp_path, {"residual_multiplier": 0.2})
    with pytest.raises(CheckpointError, match="residual_multiplier"):
        load_network(tmp_path)


@pytest.mark.parametrize("family", sorted(A_TENSOR))
def test_keys_of_bookkeeping_pass(family: str, tmp_path: Path) -> None:
    make_tiny_checkpoint(family, tmp_path)
    before = load_network(tmp_path).config
    keys = {"auto_map": {"AutoConfig": "x.Y"}, "torch_dtype": "bfloat16", "transformers_version": "4.54.1"}
    change_config(tmp_path, {**keys, "use_cache": True, "attention_dropout": 0.0, "initializer_range": 0.02})
    assert load_network(tmp_path).config == before


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("ouro", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("huginn", "freqs_cis"),
        ("parcae", "freqs_cis"),
    ],
)
def test_buffers_are_skipped(family: str, name: str, tmp_path: Path) -> None:
    make_tiny_checkpoint(family, tmp_path)
    change_tensors(tmp_path, **{name: torch.zeros(1, 8)})
    load_network(tmp_path)


def test_a_tied_head_that_differs_from_the_embedding_is_refused(tmp_path: Path) -> None:
    make_tiny_checkpoint("parcae", tmp_path, tie_word_embeddings=True)
    embedding = load_file(tmp_path / "model.safetensors")["transformer.wte.weight"]
    change_tensors(tmp_path, **{"lm_head.weight": embedding.clone()})
    load_network(tmp_path)
    change_tensors(tmp_path, **{"lm_head.weight": embedding + 1})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        load_network(tmp_path)


def test_a_sharded_checkpoint_is_read_by_its_index_alone(tmp_path: Path) -> None:
    make_tiny_checkpoint("ouro", tmp_path)
    expected = load_network(tmp_path).state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "model.safetensors").rename(tmp_path / "consolidated.safetensors")
    got = load_network(tmp_path).state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors"):
        load_network(tmp_path)


def test_a_pytorch_file_without_code_in_it_is_read(tmp_path: Path) -> None:
    make_tiny_checkpoint("parcae", tmp_path)
    expected = load_network(tmp_path).state_dict()
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    got = load_network(tmp_path).state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def quantised(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors as `loopwright model pull --dtype int8` writes them."""
    return dict(quantise_tensors(load_file(folder / "model.safetensors").items()))


def test_a_quantised_checkpoint_streams_with_its_scales(tmp_path: Path) -> None:
    adapter = adapter_for(load_network(make_tiny_checkpoint("training-free", tmp_path)).config)
    got = dict(checked_tensors(adapter, quantised(tmp_path).items(), is_quantised=True))
    assert got["layers.0.self_attn.q_proj.weight"].dtype == torch.int8
    assert got["layers.0.self_attn.q_proj.weight_scale"].shape == (64, 1)
    lacking = {name: one for name, one in quantised(tmp_path).items() if ".2.mlp.up_proj" not in name}
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.2\.mlp\.up_proj\.weight"):
        list(checked_tensors(adapter, lacking.items(), is_quantised=True))


def test_a_quantised_checkpoint_is_no_reference_network(tmp_path: Path) -> None:
    make_tiny_checkpoint("training-free", tmp_path)
    change_config(tmp_path, {"quantization_config": {"quant_method": "compressed-tensors"}})
    with pytest.raises(CheckpointError, match="is quantised"):
        load_network(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", '{"model_type": '])
def test_a_config_that_is_no_config_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_network(tmp_path)


def test_an_index_cannot_point_out_of_the_folder(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint("ouro", tmp_path / "inside")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": {"model.norm.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"\.\./outside"):
        load_network(folder)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    make_tiny_checkpoint("ouro", tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_network(tmp_path)


def test_scales_of_a_quantised_projection_are_split_as_its_weight_is() -> None:
    config = tiny_config("huginn")
    adapter = adapter_for(config)
    scale = torch.arange(3 * 64.0)[:, None]
    parts = dict(adapter.canonical("transformer.prelude.0.attn.Wqkv.weight_scale", scale))
    assert list(parts) == [f"layers.0.self_attn.{part}_proj.weight_scale" for part in "qkv"]
    assert torch.equal(torch.cat(list(parts.values())), scale)


def test_what_the_published_format_cannot_say_is_refused_by_name() -> None:
    config = tiny_config("ouro", norms_each_pass=False)
    with pytest.raises(CheckpointError, match="norms_each_pass"):
        adapter_for(config).published_config()


@pytest.mark.parametrize(("scale", "std"), [(1.0, 0.0791), (0.5, 0.0395)])
def test_the_first_state_has_the_published_noise(scale: float, std: float, tmp_path: Path) -> None:
    network = tiny_network(tiny_config("retrofit", state_noise_scale=scale))
    loaded = load_network(save_checkpoint(network, tmp_path))
    noise_TD = loaded.parts.initial_state(torch.zeros(2000, 64), torch.arange(2000))
    assert float(noise_TD.std()) == pytest.approx(0.987 * std, rel=0.01)  # sqrt(2/5D), cut at 3 of them


def test_a_server_s_choices_survive_in_the_config() -> None:
    config = tiny_config("ouro", kv_policy="last_exited", max_recurrence_depth=8, exit_threshold=0.7)
    assert read_config(json.loads(json.dumps(adapter_for(config).published_config()))) == config
