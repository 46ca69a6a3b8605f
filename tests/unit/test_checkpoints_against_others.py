"""What a published checkpoint computes here is what its architecture says.

Dense ones are compared with transformers. No library carries the others, so each is stated here once more, as
an explicit loop over the tensors under their published names; nothing of `model` takes part but the writer of
the checkpoint, the network under test, and the first state, which published code draws at random.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from model.checkpoints.loading import load_network
from model.exits import ExitRequest
from model.network import LoopedNetwork
from model.testing import make_tiny_checkpoint, tiny_config

IDS_T = torch.tensor([5, 17, 200, 3, 64, 64, 99, 120, 7, 31, 250])
NUM_TOKENS = len(IDS_T)
EPS = 1e-6
HEADS, WIDTH, HEAD_DIM = 2, 64, 32
Weights = dict[str, torch.Tensor]


def made(family: str, folder: Path, **changes: object) -> tuple[LoopedNetwork, Weights]:
    make_tiny_checkpoint(family, folder, seed=3, **changes)
    return load_network(folder), load_file(folder / "model.safetensors")


def first_state(network: LoopedNetwork) -> torch.Tensor:
    return network.parts.initial_state(torch.zeros(NUM_TOKENS, WIDTH), torch.arange(NUM_TOKENS))


def rms(x: torch.Tensor, weight: torch.Tensor | None, eps: float = EPS) -> torch.Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, eps)


def split_heads(x_TE: torch.Tensor) -> torch.Tensor:
    return x_TE.view(NUM_TOKENS, -1, HEAD_DIM).transpose(0, 1)


def turn_halves(x_HTK: torch.Tensor, theta: float) -> torch.Tensor:
    rate = theta ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = torch.outer(torch.arange(NUM_TOKENS), rate).repeat(1, 2)
    half = HEAD_DIM // 2
    other = torch.cat([-x_HTK[..., half:], x_HTK[..., :half]], dim=-1)
    return x_HTK * angle.cos() + other * angle.sin()


def turn_pairs(x_HTK: torch.Tensor, theta: float) -> torch.Tensor:
    rate = theta ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = torch.outer(torch.arange(NUM_TOKENS), rate)
    numbers = torch.view_as_complex(x_HTK.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(numbers * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int = NUM_TOKENS) -> torch.Tensor:
    """Return what the heads read (T, H * K); a window counts the token itself."""
    k, v = (one.repeat_interleave(len(q) // len(one), dim=0) for one in (k, v))
    steps = torch.arange(NUM_TOKENS)
    distance = steps[:, None] - steps
    mask = (distance >= 0) & (distance < window)
    out = functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
    return out.transpose(0, 1).reshape(NUM_TOKENS, -1)


def swiglu(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return (functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def llama_heads(w: Weights, name: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = (split_heads(x @ w[f"{name}.self_attn.{part}_proj.weight"].T) for part in "qkv")
    return turn_halves(q, 10_000.0), turn_halves(k, 10_000.0), v


def llama_mlp(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return swiglu(x, *(w[f"{name}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down")))


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)


def ouro_states(w: Weights, depth: int) -> list[torch.Tensor]:
    x, states = w["model.embed_tokens.weight"][IDS_T], []
    for _ in range(depth):
        for layer in range(2):
            name = f"model.layers.{layer}"
            read = attend(*llama_heads(w, name, rms(x, w[f"{name}.input_layernorm.weight"])))
            added = read @ w[f"{name}.self_attn.o_proj.weight"].T
            x = x + rms(added, w[f"{name}.input_layernorm_2.weight"])
            added = llama_mlp(w, name, rms(x, w[f"{name}.post_attention_layernorm.weight"]))
            x = x + rms(added, w[f"{name}.post_attention_layernorm_2.weight"])
        x = rms(x, w["model.norm.weight"])
        states.append(x)
    return states


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_ouro(depth: int, tmp_path: Path) -> None:
    network, w = made("ouro", tmp_path)
    same(network(IDS_T, depth=depth).logits_TV, ouro_states(w, depth)[-1] @ w["lm_head.weight"].T)


def test_ouro_stops_each_token_where_its_gate_s_cumulated_probability_reaches_the_threshold(
    tmp_path: Path,
) -> None:
    network, w = made("ouro", tmp_path)
    states = ouro_states(w, 4)
    expected, depths = [], []
    for token in range(NUM_TOKENS):
        going, reached = 1.0, 0.0
        for depth, state in enumerate(states, start=1):
            gate = w["model.early_exit_gate.weight"] @ state[token] + w["model.early_exit_gate.bias"]
            hazard = float(torch.sigmoid(gate))
            reached += hazard * going
            going *= 1 - hazard
            if reached >= 0.7 or depth == 4:
                expected.append(state[token] @ w["lm_head.weight"].T)
                depths.append(depth)
                break
    out = network(IDS_T, depth=4, exit_request=ExitRequest("hazard", 0.7, 1))
    assert out.depth_T.tolist() == depths
    assert len(set(depths)) > 1
    same(out.logits_TV, torch.stack(expected))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("is_normed_between", [True, False])
def test_nanbeige(depth: int, is_normed_between: bool, tmp_path: Path) -> None:
    network, w = made("nanbeige", tmp_path, norms_each_pass=is_normed_between)
    x = w["model.embed_tokens.weight"][IDS_T]
    for loop in range(depth):
        for layer in range(2):
            name = f"model.layers.{layer}"
            read = attend(*llama_heads(w, name, rms(x, w[f"{name}.input_layernorm.weight"])))
            x = x + read @ w[f"{name}.self_attn.o_proj.weight"].T
            x = x + llama_mlp(w, name, rms(x, w[f"{name}.post_attention_layernorm.weight"]))
        if is_normed_between or loop == depth - 1:
            x = rms(x, w["model.norm.weight"])
    same(network(IDS_T, depth=depth).logits_TV, x @ w["lm_head.weight"].T)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_iquest_loop(depth: int, tmp_path: Path) -> None:
    network, w = made("iquest-loop", tmp_path)
    x, first_keys = w["model.embed_tokens.weight"][IDS_T], {}
    for loop in range(depth):
        for layer in range(2):
            name = f"model.layers.{layer}"
            q, k, v = llama_heads(w, name, rms(x, w[f"{name}.input_layernorm.weight"]))
            if loop == 0:
                first_keys[layer] = (k, v)
                read = attend(q, k, v)
            else:
                gate = f"model.gate_projections.{layer}"
                # As published: each head's query goes through all heads' gates, and its own is picked.
                all_gates = torch.einsum("htk,gk->thg", q, w[f"{gate}.weight"]) + w[f"{gate}.bias"]
                share = torch.sigmoid(all_gates.diagonal(dim1=1, dim2=2))
                share = share.repeat_interleave(HEAD_DIM, dim=1)
                read = share * attend(q, *first_keys[layer]) + (1 - share) * attend(q, k, v, window=4)
            x = x + read @ w[f"{name}.self_attn.o_proj.weight"].T
            x = x + llama_mlp(w, name, rms(x, w[f"{name}.post_attention_layernorm.weight"]))
    same(network(IDS_T, depth=depth).logits_TV, rms(x, w["model.norm.weight"]) @ w["lm_head.weight"].T)


def raven_fused(w: Weights, name: str, x: torch.Tensor, kv_heads: int) -> list[torch.Tensor]:
    sizes = [HEADS * HEAD_DIM, kv_heads * HEAD_DIM, kv_heads * HEAD_DIM]
    return [split_heads(part) for part in (x @ w[f"{name}.attn.Wqkv.weight"].T).split(sizes, dim=-1)]


def raven_mlp(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    gate, up = (x @ w[f"{name}.mlp.fc.weight"].T).chunk(2, dim=-1)
    return (functional.silu(gate) * up) @ w[f"{name}.mlp.proj.weight"].T


def huginn_block(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    norms = [w[f"{name}.norm_{i}.weight"] for i in range(1, 5)]
    q, k, v = raven_fused(w, name, rms(x, norms[0]), kv_heads=2)
    q_bias, k_bias = w[f"{name}.attn.qk_bias"]  # each (1, H, K)
    q, k = q + q_bias.transpose(0, 1), k + k_bias.transpose(0, 1)
    read = attend(turn_pairs(q, 10_000.0), turn_pairs(k, 10_000.0), v)
    x = rms(x + read @ w[f"{name}.attn.proj.weight"].T, norms[1])
    return rms(x + raven_mlp(w, name, rms(x, norms[2])), norms[3])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_huginn(depth: int, tmp_path: Path) -> None:
    network, w = made("huginn", tmp_path)
    given = huginn_block(w, "transformer.prelude.0", w["transformer.wte.weight"][IDS_T] * math.sqrt(WIDTH))
    state = first_state(network)
    for _ in range(depth):
        state = torch.cat([state, given], dim=-1) @ w["transformer.adapter.weight"].T
        for layer in range(2):
            state = huginn_block(w, f"transformer.core_block.{layer}", state)
    x = huginn_block(w, "transformer.coda.0", rms(state, w["transformer.ln_f.weight"]))
    same(network(IDS_T, depth=depth).logits_TV, rms(x, w["transformer.ln_f.weight"]) @ w["lm_head.weight"].T)


def retrofit_block(w: Weights, name: str, x: torch.Tensor, donor: str) -> torch.Tensor:
    first, second = w[f"{name}.norm_1.weight"], w[f"{name}.norm_2.weight"]
    if donor == "llama":
        q, k, v = raven_fused(w, name, rms(x, first), kv_heads=1)
    else:
        q, k, v = raven_fused(w, name, x, kv_heads=1)
        q, k = (
            split_heads(
                rms(one.transpose(0, 1).reshape(NUM_TOKENS, -1), w[f"{name}.attn.{part}_norm.weight"])
            )
            for one, part in ((q, "q"), (k, "k"))
        )
    read = attend(turn_halves(q, 10_000.0), turn_halves(k, 10_000.0), v) @ w[f"{name}.attn.proj.weight"].T
    if donor == "llama":
        x = x + read
        return x + raven_mlp(w, name, rms(x, second))
    x = x + rms(read, first)
    return x + rms(raven_mlp(w, name, x), second)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("donor", ["llama", "olmo2"])
def test_retrofit(depth: int, donor: str, tmp_path: Path) -> None:
    block = tiny_config("retrofit").block
    if donor == "olmo2":
        block = replace(block, norm_placement="output", qk_norm="projection")
    network, w = made("retrofit", tmp_path, block=block)
    given = retrofit_block(w, "transformer.prelude.0", w["transformer.wte.weight"][IDS_T], donor)
    state = first_state(network)
    for _ in range(depth):
        state = torch.cat([state, given], dim=-1) @ w["transformer.adapter.weight"].T
        for layer in range(2):
            state = retrofit_block(w, f"transformer.core_block.{layer}", state, donor)
    x = retrofit_block(w, "transformer.coda.0", state, donor)
    same(network(IDS_T, depth=depth).logits_TV, rms(x, w["transformer.ln_f.weight"]) @ w["lm_head.weight"].T)


def parcae_block(w: Weights, name: str, x: torch.Tensor, layer: int) -> torch.Tensor:
    normed = rms(x, w[f"{name}.norm_1.weight"])
    q, k, v = (split_heads(normed @ w[f"{name}.attn.c_{part}.weight"].T) for part in "qkv")
    tiny = torch.finfo(torch.float32).eps
    q, k = (rms(turn_pairs(one, 10_000.0), None, tiny) for one in (q, k))
    if f"value_embeds.{layer}.weight" in w:
        share = 2 * torch.sigmoid(normed[:, :32] @ w[f"{name}.attn.ve_gate.weight"].T)
        v = v + share.T[..., None] * split_heads(w[f"value_embeds.{layer}.weight"][IDS_T])
    x = x + attend(q, k, v) @ w[f"{name}.attn.c_proj.weight"].T
    hidden = rms(x, w[f"{name}.norm_2.weight"]) @ w[f"{name}.mlp.fc.weight"].T
    return x + (0.5 * hidden.relu().square()) @ w[f"{name}.mlp.proj.weight"].T


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_parcae(depth: int, tmp_path: Path) -> None:
    network, w = made("parcae", tmp_path)
    assert {name for name in w if name.startswith("value_embeds")} == {
        f"value_embeds.{layer}.weight" for layer in (1, 3)
    }
    given = parcae_block(w, "transformer.prelude.0", w["transformer.wte.weight"][IDS_T], 0)
    given = rms(given, w["transformer.ln_prelude.weight"])
    step = functional.softplus(w["transformer.adapter.dt_bias"])
    keep = torch.exp(-step * torch.exp(w["transformer.adapter.A_log"]))
    state = first_state(network)
    for _ in range(depth):
        state = state * keep + step * (given @ w["transformer.adapter.B"].T)
        for layer in range(2):
            state = parcae_block(w, f"transformer.core_block.{layer}", state, 1 + layer)
    x = parcae_block(w, "transformer.coda.0", state @ w["transformer.C.weight"].T, 3)
    same(network(IDS_T, depth=depth).logits_TV, rms(x, w["transformer.ln_f.weight"]) @ w["lm_head.weight"].T)


@pytest.mark.parametrize(
    "kind",
    ["qwen2", "qwen3", "llama", "llama with biases", "llama with llama3", "llama with linear", "olmo2"],
)
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_dense_checkpoint_at_depth_1_is_what_transformers_computes(
    kind: str, is_tied: bool, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    llama3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    more = {
        "llama with biases": {"attention_bias": True, "mlp_bias": True},
        "llama with llama3": {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, **llama3}},
        "llama with linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    }.get(kind, {})
    if "rope_parameters" in more:
        more["rope_parameters"]["rope_theta"] = 10_000.0
    sizes = {"vocab_size": 259, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = AutoConfig.for_model(
        kind.split()[0],
        **sizes,
        **heads,
        **more,
        tie_word_embeddings=is_tied,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(11)
        donor = AutoModelForCausalLM.from_config(config).float().eval()
        for parameter in donor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        donor.save_pretrained(tmp_path)
        expected = donor(IDS_T[None]).logits[0]
    network = load_network(tmp_path)
    assert network.config.num_core_layers == 4
    same(network(IDS_T, depth=1).logits_TV, expected)
