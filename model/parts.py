"""The small parts around a looped core: injection, depth encoding, step rule, gate, norms. One implementation
for the reference network and for the server, since none of them is split over devices or quantised.

Shapes: A rows, D the width of the state.
Sources: linear injection and state noise arXiv 2502.05171 (Huginn), diagonal injection arXiv 2604.12946
(Parcae), damped and anchored steps arXiv 2605.23872, timestep encoding arXiv 1807.03819 (Universal
Transformer), routers arXiv 2507.10524 (MoR).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from model.config import LoopedConfig, NormKind

_NOISE_MULTIPLIER = 6_364_136_223_846_793_005  # Knuth's MMIX, to scatter (token position, channel)


class Norm(nn.Module):
    """RMSNorm or LayerNorm, in float32, with a weight (and a bias, LayerNorm)."""

    def __init__(self, size: int, kind: NormKind, eps: float) -> None:
        super().__init__()
        self.kind, self.eps = kind, eps
        self.weight = nn.Parameter(torch.ones(size))
        if kind == "layer":
            self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` with its last axis normalised."""
        if self.kind == "layer":
            return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return unit_rms(x, self.eps) * self.weight


def unit_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Return `x` scaled to a root mean square of 1 along its last axis."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class Injection(nn.Module):
    """How the prelude's output enters each pass: into the state, before the core's first block."""

    def __init__(self, config: LoopedConfig) -> None:
        super().__init__()
        self.kind = config.injection
        width = config.block.hidden_size
        if self.kind == "linear":  # on [state, input]
            self.adapter = nn.Linear(2 * width, width, bias=False)
        if self.kind == "diagonal":
            self.log_rate = nn.Parameter(torch.zeros(width))  # A_log
            self.step_bias = nn.Parameter(torch.zeros(width))  # dt_bias
            self.input_proj = nn.Linear(width, width, bias=False)  # B

    def forward(self, state_AD: torch.Tensor, input_AD: torch.Tensor) -> torch.Tensor:
        """Return what the core reads."""
        if self.kind == "none":
            return state_AD
        if self.kind == "add":
            return state_AD + input_AD
        if self.kind == "linear":
            return self.adapter(torch.cat([state_AD, input_AD], dim=-1))
        step_D = functional.softplus(self.step_bias)
        return state_AD * self.decay() + step_D * self.input_proj(input_AD)

    def decay(self) -> torch.Tensor:
        """Return the share of the state that a pass keeps, (D,), each in 0..1 whatever the weights are."""
        return torch.exp(-functional.softplus(self.step_bias) * self.log_rate.exp())


class LoopParts(nn.Module):
    """Everything of a looped decoder that is neither a block nor an embedding nor the head."""

    def __init__(self, config: LoopedConfig) -> None:
        super().__init__()
        self.config = config
        block, width = config.block, config.block.hidden_size
        self.injection = Injection(config)
        if config.has_final_norm:
            self.final_norm = Norm(width, block.norm, block.norm_eps)
        if config.norms_prelude_output:
            self.prelude_norm = Norm(width, block.norm, block.norm_eps)
        if config.projects_core_output:
            self.core_output = nn.Linear(width, width, bias=False)
        if config.gate in ("hazard", "act"):
            self.gate = nn.Linear(width, 1)
        if config.gate == "token_choice":  # one decision, before the first pass
            self.router = nn.Linear(width, config.max_recurrence_depth, bias=False)
        if config.gate == "expert_choice":
            self.routers = nn.ModuleList(
                nn.Linear(width, 1, bias=False) for _ in range(config.max_recurrence_depth)
            )

    def core_input(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """Return what is injected: the prelude's output, normed where the family does that."""
        return self.prelude_norm(hidden_TD) if self.config.norms_prelude_output else hidden_TD

    def initial_state(self, input_TD: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
        """Return the state before the first pass.

        Noise is a function of the position alone. Drawn from a generator, as the published code does, it
        would differ between two runs of a prompt, and a prefix cache would hold what no other run computes.
        """
        if self.config.state_init == "input":
            return input_TD
        if self.config.state_init == "zeros":
            return torch.zeros_like(input_TD)
        scale = self.config.embedding_scale * self.config.state_noise_scale
        return position_noise(positions_T, input_TD.shape[-1]).to(input_TD) * scale

    def pass_input(
        self, state_AD: torch.Tensor, input_AD: torch.Tensor, positions_A: torch.Tensor, pass_index: int
    ) -> torch.Tensor:
        """Return what the core reads in a pass: the injected state, with the depth encoding on it."""
        x_AD = self.injection(state_AD, input_AD)
        if self.config.depth_encoding == "sinusoidal":
            x_AD = x_AD + depth_encoding(positions_A, pass_index, x_AD.shape[-1]).to(x_AD)
        return x_AD

    def step(self, state_AD: torch.Tensor, moved_AD: torch.Tensor, depth_A: torch.Tensor) -> torch.Tensor:
        """Return the state after a pass: the core's output, or damped, a part of the way to it."""
        if self.config.step_rule != "plain":
            moved_AD = torch.lerp(state_AD, moved_AD, (1.0 / depth_A[:, None]).to(state_AD.dtype))
        return self.final_norm(moved_AD) if self.config.norms_each_pass else moved_AD

    def leave(
        self, state_TD: torch.Tensor, natural_TD: torch.Tensor | None, depth_T: torch.Tensor
    ) -> torch.Tensor:
        """Return what the coda reads, given the last state.

        `natural_TD` is what the core made of its first input, before the step rule: the plain model's.
        """
        if self.config.step_rule == "damped_anchored":
            assert natural_TD is not None, "an anchored step needs the first pass"
            anchored_TD = torch.lerp(state_TD, natural_TD, self.config.anchor_weight)
            # At depth 1 both are the plain model's, and stay it bit for bit.
            state_TD = torch.where(depth_T[:, None] > 1, anchored_TD, natural_TD)
        return self.core_exit(state_TD)

    def core_exit(self, state_TD: torch.Tensor) -> torch.Tensor:
        """Return what the coda reads of a state that no step rule anchors."""
        if self.config.norms_core_output:
            state_TD = self.final_norm(state_TD)
        return self.core_output(state_TD) if self.config.projects_core_output else state_TD

    def read_out(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """Return what the head reads. Where each pass ends in the final norm, it is not applied again."""
        return self.final_norm(hidden_TD) if self.norms_read_out else hidden_TD

    @property
    def norms_read_out(self) -> bool:
        """Return whether `read_out` is the final norm."""
        is_normed = self.config.norms_each_pass and self.config.num_coda_layers == 0
        return self.config.has_final_norm and not is_normed

    def hazard(self, state_AD: torch.Tensor) -> torch.Tensor | None:
        """Return the probability to stop now (A,), where the family has learned one."""
        if self.config.gate not in ("hazard", "act"):
            return None
        return torch.sigmoid(self.gate(state_AD)).squeeze(-1)

    def chosen_depth(self, input_TD: torch.Tensor) -> torch.Tensor:
        """Return the number of passes that a token-choice router gives to each token, int (T,)."""
        return self.router(input_TD).argmax(-1) + 1

    def chosen_weight(self, input_TD: torch.Tensor) -> torch.Tensor:
        """Return the weight (T,) with which a token-choice router adds a token's last state to its input."""
        return self.config.router_scale * self.router(input_TD).softmax(-1).amax(-1)

    def routing_weight(self, state_AD: torch.Tensor, pass_index: int) -> torch.Tensor:
        """Return the weight of a pass for each row (A,), for a router that chooses tokens pass by pass.

        Rows below half of its scale are not chosen: at inference the threshold stands for the top-k, which
        would look at later tokens (research: auxiliary loss).
        """
        return self.config.router_scale * torch.sigmoid(self.routers[pass_index](state_AD)).squeeze(-1)


def depth_encoding(positions_A: torch.Tensor, pass_index: int, width: int) -> torch.Tensor:
    """Return sin and cos of position and pass, added up (A, D); channel pairs share a frequency."""
    channel_H = torch.arange(0, width, 2, device=positions_A.device)
    rate_H = torch.exp(-math.log(10_000.0) * channel_H / width)
    position_AH = positions_A[:, None].float() * rate_H
    pass_H = (pass_index + 1) * rate_H  # passes count from 1 in the paper
    sines = torch.sin(position_AH) + torch.sin(pass_H)
    cosines = torch.cos(position_AH) + torch.cos(pass_H)
    return torch.stack([sines, cosines], dim=-1).flatten(-2)[:, :width]


def position_noise(positions_T: torch.Tensor, width: int) -> torch.Tensor:
    """Return normal noise (T, D), standard deviation sqrt(2/5D), cut at 3 of them, from positions alone."""
    index_TD = positions_T[:, None].long() * width + torch.arange(width, device=positions_T.device)
    bits_TD = (index_TD + 1) * _NOISE_MULTIPLIER
    bits_TD = (bits_TD ^ ((bits_TD >> 29) & 0x7FFFFFFFF)) * _NOISE_MULTIPLIER
    uniform_TD = ((bits_TD >> 40) & 0xFFFFFF).double() / 2**24
    low, high = _normal_cdf(-3.0), _normal_cdf(3.0)
    normal_TD = torch.special.ndtri(low + (high - low) * (uniform_TD + 2.0**-25))
    return (normal_TD * math.sqrt(2 / (5 * width))).float()


def _normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))
