"""Conversions on tiny random checkpoints: from GGUF, to int8; against float32 and against the engine."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.exceptions import ModelError
from model.provision import pull, resolve, verify
from model.provision.cpu import computing_dtype
from model.provision.gguf_checkpoint import transformers_name
from model.provision.quantise import quantise_per_channel
from model.provision.tensors import write_safetensors
from model.testing import make_tiny_qwen2
from tests.integration.looped_engine import Ask, EngineProcess
from tests.w8a8 import drift, simulate_w8a8

pytestmark = pytest.mark.integration

TEXT = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_qwen2(tmp_path_factory.mktemp("tiny"), num_layers=3, tie_word_embeddings=True)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(network, token_ids):
    return network(torch.tensor([token_ids])).logits[0]


def token_ids(folder):
    return AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]


# ---------------------------------------------------------------- safetensors


def test_a_streamed_file_is_read_by_the_library_as_it_was_written(tmp_path):
    tensors = {
        "float": torch.randn(3, 4),
        "int": torch.arange(8, dtype=torch.int8).reshape(2, 4),
        "brain": torch.randn(4, 2).bfloat16(),
        "transposed": torch.randn(3, 4).T,
    }
    write_safetensors(tmp_path / "x.safetensors", tensors.items())
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_tensor_that_readers_could_not_map_is_refused(tmp_path):
    tensors = {"int": torch.zeros(3, dtype=torch.int8), "float": torch.zeros(2)}
    with pytest.raises(ModelError, match="unaligned"):
        write_safetensors(tmp_path / "x.safetensors", tensors.items())


def test_float32_of_a_local_folder_computes_the_same(tiny):
    folder = pull("mine", dtype="float32", source=str(tiny))
    ids = token_ids(folder)
    assert ids == token_ids(tiny)
    assert torch.equal(logits(load(folder), ids), logits(load(tiny), ids))
    assert verify("mine")[0].problems == ()


def test_bfloat16_is_the_rounded_float32(tiny):
    folder = pull("mine", dtype="bfloat16", source=str(tiny))
    original = load_file(tiny / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, original[name].bfloat16())


# ---------------------------------------------------------------- GGUF


def write_gguf(path, folder, *, head=None):
    """Write the tiny checkpoint as llama.cpp would: the qwen2 architecture, float32, byte-level BPE."""
    from gguf import GGUFWriter, TokenType

    config = json.loads((folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    tokens[tokens.index("ÿ")] = "de"  # a merge, in the place of a byte that no text has
    special = set(tokenizer.added_tokens_encoder)
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*tokens, "[PAD0]"])  # rows beyond the vocabulary, as Qwen's files have them
    kinds = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    writer.add_token_types([*kinds, TokenType.UNUSED])
    writer.add_token_merges(["d e"])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_chat_template(tokenizer.chat_template)
    weights = load_file(folder / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    names = {transformers_name(name): name for name in gguf_names(config["num_hidden_layers"])}
    for name, tensor in weights.items():
        writer.add_tensor(names[name], tensor.numpy())
    if head is not None:
        writer.add_tensor("output.weight", head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_names(num_layers):
    parts = (
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    )
    blocks = [f"blk.{i}.{part}.weight" for i in range(num_layers) for part in parts]
    biases = [f"blk.{i}.attn_{part}.bias" for i in range(num_layers) for part in "qkv"]
    return ["token_embd.weight", "output_norm.weight", *blocks, *biases]


def test_gguf_computes_what_the_checkpoint_it_was_made_from_computes(tiny, tmp_path):
    folder = pull("mine", dtype="float32", source=str(write_gguf(tmp_path / "m.gguf", tiny)))
    ids = token_ids(tiny)
    torch.testing.assert_close(logits(load(folder), ids), logits(load(tiny), ids), rtol=0, atol=1e-5)


def test_gguf_gives_the_tokenizer_back(tiny, tmp_path):
    folder = pull("mine", dtype="float32", source=str(write_gguf(tmp_path / "m.gguf", tiny)))
    tokenizer, original = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tiny)
    messages = [{"role": "user", "content": "hé <|im_end|> x"}]
    rendered = [t.apply_chat_template(messages, tokenize=False) for t in (tokenizer, original)]
    assert rendered[0] == rendered[1]
    assert tokenizer.decode(tokenizer(rendered[0])["input_ids"]) == rendered[0]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == original.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token == "<|im_end|>"
    assert len(tokenizer("de")["input_ids"]) == 1, "merges are applied"
    assert "[PAD0]" not in tokenizer.get_vocab()


def test_generation_ends_at_the_turn_and_at_the_document(tiny, tmp_path):
    folder = pull("mine", dtype="float32", source=str(write_gguf(tmp_path / "m.gguf", tiny)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    assert load(folder).generation_config.eos_token_id == ends


def test_a_head_that_is_the_embedding_at_another_precision_is_tied_and_the_finer_one_kept(tiny, tmp_path):
    embedding = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"].numpy()
    coarse = np.round(embedding / 0.02).astype(np.float32) * np.float32(0.02)
    path = write_gguf(tmp_path / "m.gguf", tiny, head=coarse.astype(np.float16))
    weights = load_file(pull("mine", dtype="float32", source=str(path)) / "model.safetensors")
    assert "lm_head.weight" not in weights
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"].numpy(), embedding)


def test_a_head_of_its_own_stays_its_own(tiny, tmp_path):
    embedding = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"].numpy()
    head = np.random.default_rng(0).normal(size=embedding.shape).astype(np.float32)
    path = write_gguf(tmp_path / "m.gguf", tiny, head=head)
    folder = pull("mine", dtype="float32", source=str(path))
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")["lm_head.weight"].numpy(), head)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="no readable GGUF"):
        pull("mine", source=str(tmp_path / "m.gguf"))


# ---------------------------------------------------------------- int8


def test_int8_rounds_each_weight_to_the_nearest_of_its_channels_steps():
    weight = torch.randn(16, 64) * torch.logspace(-3, 3, 16)[:, None]
    weight[5] = 0
    quantised, scale = quantise_per_channel(weight)
    assert quantised.dtype == torch.int8
    assert scale.shape == (16, 1)
    assert ((quantised * scale - weight).abs() <= 0.5001 * scale).all()
    assert (quantised.abs().amax(dim=1)[weight.abs().amax(dim=1) > 0] == 127).all(), "the range is used"


@pytest.fixture(scope="module")
def int8_folder(tiny, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOPWRIGHT_HOME", str(tmp_path_factory.mktemp("home")))
        return pull("tiny", dtype="int8", source=str(tiny))


def test_int8_keeps_embeddings_norms_and_biases_in_float(int8_folder):
    for name, tensor in load_file(int8_folder / "model.safetensors").items():
        assert (tensor.dtype == torch.int8) == (name.endswith("_proj.weight") or name == "lm_head.weight"), (
            name
        )


def test_int8_drifts_little_from_float32(tiny, int8_folder):
    """Measured with seeds 0, 1, 2: KL 0.0013, 0.0011, 0.0016 nats; same top token at 95, 94, 95 %."""
    ids = token_ids(tiny)
    reference = logits(load(tiny), ids)
    agreement, divergence = drift(logits(simulate_w8a8(load(tiny), int8_folder), ids), reference)
    assert 0 < divergence < 0.005
    assert agreement > 0.9


def test_the_layout_is_what_compressed_tensors_reads(int8_folder):
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig.model_validate(
        json.loads((int8_folder / "config.json").read_text())["quantization_config"]
    )
    group = config.config_groups["group_0"]
    assert (group.weights.strategy, group.weights.symmetric) == ("channel", True)
    assert (group.input_activations.strategy, group.input_activations.dynamic) == ("token", True)


def test_the_engine_computes_what_the_simulation_computes(tiny, int8_folder):
    ids = token_ids(tiny)
    expected = logits(simulate_w8a8(load(tiny), int8_folder), ids)[-1].log_softmax(-1)
    dtype = computing_dtype("float32", is_quantised=True)
    tolerance = 0.02 if dtype == "float32" else 0.1  # with AMX the engine's activations are bfloat16
    engine = EngineProcess(int8_folder, None, dtype=dtype)
    try:
        [answer] = engine.ask(Ask(token_ids=tuple(ids), num_tokens=1))
    finally:
        engine.close()
    assert len(answer.logprobs[0]) >= 4
    for token, logprob in answer.logprobs[0].items():
        assert logprob == pytest.approx(float(expected[token]), abs=tolerance)


# ---------------------------------------------------------------- interruption


KILLED = """
import os, signal, sys
from model.provision import pull

def die(progress):
    if progress.step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

pull("mine", dtype="int8", source=sys.argv[1], on_progress=die)
"""


@pytest.mark.parametrize("step", ["convert", "hash"])
def test_a_conversion_killed_at_any_step_is_never_trusted_and_can_be_repeated(tiny, home, step):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tiny), step], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(ModelError):
        resolve("mine", "int8")
    folder = pull("mine", dtype="int8", source=str(tiny))
    assert verify("mine")[0].problems == ()
    assert {path.name for path in folder.parent.iterdir()} == {"int8", ".lock"}, (
        "nothing is left of the first"
    )


def test_once_pulled_a_model_needs_its_source_no_more(tiny, tmp_path):
    source = shutil.copytree(tiny, tmp_path / "source")
    folder = pull("mine", dtype="float32", source=str(source))
    shutil.rmtree(source)
    assert resolve("mine", "float32") == folder
