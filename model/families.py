"""The published looped families as settings of one `LoopedConfig`; what differs between them stands here,
nothing else.

Each preset takes the sizes that checkpoints of a family differ in. Sources: the paper or the code that a
preset names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from model.config import BlockConfig, LoopedConfig, MoeConfig, RopeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What checkpoints of one family differ in."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_core_layers: int
    num_prelude_layers: int = 0
    num_coda_layers: int = 0
    max_position_embeddings: int
    recurrence_depth: int
    max_recurrence_depth: int | None = None  # None: what it was trained with
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_word_embeddings: bool = False


def ouro(sizes: Sizes) -> LoopedConfig:
    """Whole stack, sandwich norms, the final norm after every pass, a hazard gate (arXiv 2510.25741)."""
    return _config(
        "ouro",
        sizes,
        _block(sizes, norm_placement="sandwich"),
        norms_each_pass=True,
        gate="hazard",
        exit_rule="hazard",
    )


def iquest_loop(sizes: Sizes, *, window_size: int) -> LoopedConfig:
    """Later passes see the first one's keys and a window of their own, gated (arXiv 2603.16733)."""
    return _config(
        "iquest-loop", sizes, _block(sizes), later_attention="gated_window", window_size=window_size
    )


def nanbeige(sizes: Sizes) -> LoopedConfig:
    """Whole Llama stack, the final norm after every pass (arXiv 2607.22083)."""
    return _config("nanbeige", sizes, _block(sizes), norms_each_pass=True)


def huginn(sizes: Sizes) -> LoopedConfig:
    """Prelude, core, coda; [state, input] through an adapter; norms on the sum (arXiv 2502.05171)."""
    block = _block(
        sizes,
        norm_placement="outer_sandwich",
        qk_bias=True,
        rope=RopeConfig(style="pairs", theta=sizes.rope_theta),
    )
    return _config(
        "huginn",
        sizes,
        block,
        embedding_scale=math.sqrt(sizes.hidden_size),
        injection="linear",
        state_init="noise",
        norms_core_output=True,
    )


def parcae(sizes: Sizes) -> LoopedConfig:
    """Diagonal injection with decays in 0..1, normed prelude, projected core output (arXiv 2604.12946).

    Every second layer, counted from the last, adds gated token embeddings to its values; queries and keys are
    normed after their rotation and without a weight; the squared ReLU is halved.
    """
    block = _block(
        sizes,
        mlp="relu2",
        mlp_scale=0.5,
        qk_norm="head_after_rope",
        rope=RopeConfig(style="pairs", theta=sizes.rope_theta),
        value_gate_channels=min(32, sizes.hidden_size),
    )
    num_layers = sizes.num_prelude_layers + sizes.num_core_layers + sizes.num_coda_layers
    return _config(
        "parcae",
        sizes,
        block,
        injection="diagonal",
        state_init="noise",
        norms_prelude_output=True,
        projects_core_output=True,
        value_embedding_layers=tuple(i for i in range(num_layers) if i % 2 == (num_layers - 1) % 2),
    )


def retrofit(sizes: Sizes, *, block: BlockConfig | None = None) -> LoopedConfig:
    """Layers of a dense donor as prelude, core and coda, an adapter before the core (arXiv 2511.07384).

    `block` is the donor's; without it, that of a Llama. Unlike in Huginn no norm stands before the coda, so
    that one pass with an adapter that takes the input alone is the donor's own stack.
    """
    return _config("retrofit", sizes, block or _block(sizes), injection="linear", state_init="noise")


def training_free(sizes: Sizes, *, block: BlockConfig | None = None, **loop: Any) -> LoopedConfig:
    """A window in the middle of a dense checkpoint, looped with damped, anchored steps (arXiv 2605.23872)."""
    settings = {"step_rule": "damped_anchored", "anchor_weight": 0.5, **loop}
    return _config("training-free", sizes, block or _block(sizes), **settings)


def universal_transformer(sizes: Sizes) -> LoopedConfig:
    """One post-normed layer, positions and passes encoded, halting by ACT (arXiv 1807.03819)."""
    block = _block(
        sizes,
        norm="layer",
        norm_placement="post",
        mlp="relu",
        mlp_bias=True,
        rope=RopeConfig(style="none"),
    )
    return _config(
        "universal-transformer",
        sizes,
        block,
        has_final_norm=False,
        embedding_scale=math.sqrt(sizes.hidden_size),
        depth_encoding="sinusoidal",
        gate="act",
        exit_rule="act",
        exit_threshold=0.99,
    )


def moeut(sizes: Sizes, *, moe: MoeConfig) -> LoopedConfig:
    """A group of layers in turn, sigma-MoE, SwitchHead, peri-norms (arXiv 2405.16039)."""
    rope = RopeConfig(theta=sizes.rope_theta, fraction=0.5)
    return _config(
        "moeut",
        sizes,
        _block(sizes, norm="layer", norm_placement="peri", mlp="sigma_moe", moe=moe, rope=rope),
    )


def mor(sizes: Sizes, *, is_expert_choice: bool = True) -> LoopedConfig:
    """A shared middle, of which a router chooses the tokens that go on, or each token's depth (arXiv
    2507.10524).

    Keys are kept by recursion: a token attends to those that went as deep. `later_attention` "shared" is the
    paper's other cache, in which all recursions read the first one's. Of the published code's variants:
    linear routers, sigmoid and 0.1 with expert choice (its auxiliary loss), softmax and 1 with token choice.
    """
    return _config(
        "mor",
        sizes,
        _block(sizes),
        gate="expert_choice" if is_expert_choice else "token_choice",
        router_scale=0.1 if is_expert_choice else 1.0,
    )


PRESETS: Mapping[str, Callable[..., LoopedConfig]] = {
    "iquest-loop": iquest_loop,
    "ouro": ouro,
    "nanbeige": nanbeige,
    "huginn": huginn,
    "parcae": parcae,
    "retrofit": retrofit,
    "training-free": training_free,
    "universal-transformer": universal_transformer,
    "moeut": moeut,
    "mor": mor,
}


def _block(sizes: Sizes, **settings: Any) -> BlockConfig:
    block = BlockConfig(
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_attention_heads=sizes.num_attention_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        head_dim=sizes.head_dim,
        norm_eps=sizes.norm_eps,
        rope=RopeConfig(theta=sizes.rope_theta),
    )
    return replace(block, **settings)


def _config(family: str, sizes: Sizes, block: BlockConfig, **settings: Any) -> LoopedConfig:
    return LoopedConfig(
        family=family,
        vocab_size=sizes.vocab_size,
        max_position_embeddings=sizes.max_position_embeddings,
        block=block,
        num_prelude_layers=sizes.num_prelude_layers,
        num_core_layers=sizes.num_core_layers,
        num_coda_layers=sizes.num_coda_layers,
        tie_word_embeddings=sizes.tie_word_embeddings,
        recurrence_depth=sizes.recurrence_depth,
        max_recurrence_depth=sizes.max_recurrence_depth or sizes.recurrence_depth,
        **settings,
    )
