"""A retrofit of a dense checkpoint is the donor without the layers that were dropped, until it is trained."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from model.checkpoints.loading import load_network
from model.checkpoints.retrofit_convert import Cut, convert
from model.exceptions import CheckpointError
from model.testing import make_tiny_checkpoint, make_tiny_qwen2
from pipeline.cli.app import app

IDS_T = torch.tensor([5, 17, 200, 3, 64, 64, 99, 120])
CUT = Cut(num_prelude_layers=1, num_core_layers=2, num_coda_layers=1, recurrence_depth=3)
KEPT = [0, 3, 4, 5]  # of 6 layers


def make_donor(kind: str, folder: Path, *, is_tied: bool = False) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 259, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32 if kind == "qwen3" else 16}
    config = AutoConfig.for_model(
        kind, **sizes, **heads, tie_word_embeddings=is_tied, pad_token_id=0, eos_token_id=1
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        donor = AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)
        for parameter in donor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    donor.save_pretrained(folder)
    return donor


@pytest.mark.parametrize("kind", ["llama", "olmo2", "qwen2", "qwen3"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_at_depth_1_it_computes_the_donor_s_pruned_stack(kind: str, is_tied: bool, tmp_path: Path) -> None:
    donor = make_donor(kind, tmp_path / "donor", is_tied=is_tied)
    convert(tmp_path / "donor", tmp_path / "looped", CUT)
    network = load_network(tmp_path / "looped")
    donor.model.layers = torch.nn.ModuleList(donor.model.layers[layer] for layer in KEPT)
    out = network(IDS_T, depth=1)
    expected = donor(IDS_T[None], output_hidden_states=True, use_cache=False)
    torch.testing.assert_close(out.hidden_TD, expected.hidden_states[-1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.logits_TV, expected.logits[0], rtol=1e-5, atol=1e-5)


def test_deeper_it_computes_the_same_until_the_adapter_is_trained(tmp_path: Path) -> None:
    make_donor("llama", tmp_path / "donor")
    convert(tmp_path / "donor", tmp_path / "looped", CUT)
    network = load_network(tmp_path / "looped")
    assert network.config.recurrence_depth == 3
    assert torch.equal(network(IDS_T, depth=3).logits_TV, network(IDS_T, depth=1).logits_TV)
    network.parts.injection.adapter.weight[:, :64] = 0.1
    assert not torch.equal(network(IDS_T, depth=3).logits_TV, network(IDS_T, depth=1).logits_TV)


def test_its_tensors_have_the_published_names(tmp_path: Path) -> None:
    make_donor("llama", tmp_path / "donor")
    convert(tmp_path / "donor", tmp_path / "looped", CUT)
    tensors = load_file(tmp_path / "looped" / "model.safetensors")
    donor = load_file(tmp_path / "donor" / "model.safetensors")
    fused = [donor[f"model.layers.4.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(tensors["transformer.core_block.1.attn.Wqkv.weight"], torch.cat(fused))
    adapter = torch.cat([torch.zeros(64, 64), torch.eye(64)], dim=1)
    assert torch.equal(tensors["transformer.adapter.weight"], adapter)
    assert "lm_head.weight" in tensors
    assert not any("layers.1" in name for name in tensors)


def test_the_command_writes_it_and_says_what_it_is(tmp_path: Path) -> None:
    make_donor("llama", tmp_path / "donor")
    folders = [str(tmp_path / "donor"), str(tmp_path / "looped")]
    command = ["model", "retrofit", *folders, "--prelude", "1", "--core", "2", "--coda", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert "1 + 2 + 1 layers, looped 4 times" in result.output
    assert load_network(tmp_path / "looped").config.family == "retrofit"
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "holds a checkpoint already" in again.stderr


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    make_tiny_qwen2(tmp_path / "donor", tie_word_embeddings=True)
    convert(tmp_path / "donor", tmp_path / "looped", CUT)
    assert (tmp_path / "looped" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (Cut(num_prelude_layers=2, num_core_layers=3, num_coda_layers=2), "takes 7 layers"),
        (Cut(num_prelude_layers=2, num_core_layers=0, num_coda_layers=2), "core of at least one"),
    ],
)
def test_a_cut_that_does_not_fit_is_refused(cut: Cut, message: str, tmp_path: Path) -> None:
    make_tiny_qwen2(tmp_path / "donor")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "donor", tmp_path / "looped", cut)
    assert not (tmp_path / "looped").exists()


def test_a_looped_donor_and_a_taken_target_are_refused(tmp_path: Path) -> None:
    make_tiny_checkpoint("ouro", tmp_path / "ouro")
    with pytest.raises(CheckpointError, match="no dense checkpoint in float, but ouro"):
        convert(tmp_path / "ouro", tmp_path / "looped", CUT)
    make_tiny_qwen2(tmp_path / "donor")
    with pytest.raises(CheckpointError, match="holds a checkpoint already"):
        convert(tmp_path / "donor", tmp_path / "ouro", CUT)
