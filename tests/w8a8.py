"""An independent simulation in PyTorch of what an engine computes from an int8 W8A8 checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn


@torch.no_grad()
def simulate_w8a8(network: nn.Module, int8_folder: Path) -> nn.Module:
    """Put the int8 checkpoint's weights into a float network and quantise each input of theirs per token."""
    modules = dict(network.named_modules())
    with safe_open(int8_folder / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
        for name in names:
            if f"{name}_scale" not in names:
                continue
            linear = modules[name.removesuffix(".weight")]
            if name == "lm_head.weight":  # else the embedding, which the two may share, would change with it
                linear.weight = nn.Parameter(linear.weight.clone())
            linear.weight.copy_(file.get_tensor(name).float() * file.get_tensor(f"{name}_scale"))
            linear.register_forward_pre_hook(_quantise_input)
    return network


def _quantise_input(module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    (x_BTD,) = inputs
    scale_BT1 = x_BTD.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return (x_BTD / scale_BT1).round().clamp(-127, 127) * scale_BT1


def drift(logits_TV: torch.Tensor, reference_TV: torch.Tensor) -> tuple[float, float]:
    """Return the share of positions with the same most likely token, and the mean KL divergence in nats."""
    agreement = (logits_TV.argmax(-1) == reference_TV.argmax(-1)).float().mean()
    log_p, log_q = reference_TV.log_softmax(-1), logits_TV.log_softmax(-1)
    return float(agreement), float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
