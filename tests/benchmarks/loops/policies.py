"""How far each KV policy is from the exact one: `python -m tests.benchmarks.loops.policies`.

A small Ouro-like decoder is trained here on Python's own standard library, byte by byte, each pass
supervised, and then reads held-out files under every policy: whole, in chunks, and a token at a time. Exact
is a slot for each pass, with every row computed to its depth.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from model.config import KVPolicy, LoopedConfig
from model.exits import ExitRequest
from model.network import KVCache, LoopedNetwork
from model.testing import tiny_config, tiny_network

_LEARNING_RATE = 1.5e-3
_POLICIES: tuple[KVPolicy, ...] = (
    "depth_indexed",
    "last_exited",
    "first_then_shared",
    "single",
    "single_restored",
)
_STOPS = (ExitRequest(), ExitRequest("latent", 0.4), ExitRequest("kl", 0.05))
_CHUNKS = {"whole": 10_000, "chunks of 32": 32, "token by token": 1}


@dataclass(frozen=True, slots=True)
class Row:
    """What one way to read does."""

    loss: float  # nats a byte
    kl: float  # nats, from the exact way with the same exits
    mean_depth: float


class _States:
    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []

    def start(self, _state_TD: torch.Tensor) -> None:
        pass

    def layer(self, *_: Any) -> None:
        pass

    def loop(self, _pass: int, _rows_A: torch.Tensor, _before: torch.Tensor, after_AD: torch.Tensor) -> None:
        self.after.append(after_AD)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, read, print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3000, help="training steps of one sequence each")
    parser.add_argument("--sequences", type=int, default=12, help="held-out sequences of 256 bytes")
    options = parser.parse_args(argv)
    config = tiny_config("ouro", recurrence_depth=4, max_recurrence_depth=4, exit_rule="none")
    network = trained(config, options.steps)
    print("| stops | policy | read | loss | KL from exact | mean depth |\n|---|---|---|---|---|---|")
    for stop in _STOPS:
        exact = [read(network, tokens, stop, 10_000) for tokens in held_out(options.sequences)]
        for policy in _POLICIES:
            other = LoopedNetwork(replace(config, kv_policy=policy)).eval().requires_grad_(False)
            other.load_state_dict(network.state_dict())
            for name, chunk in _CHUNKS.items():
                row = compared(other, exact, list(held_out(options.sequences)), stop, chunk)
                rule = stop.rule if stop.rule == "none" else f"{stop.rule} {stop.threshold}"
                print(
                    f"| {rule} | {policy} | {name} | {row.loss:.3f} | {row.kl:.4f} | {row.mean_depth:.2f} |",
                    flush=True,
                )
    return 0


def trained(config: LoopedConfig, num_steps: int) -> LoopedNetwork:
    """Return the network after training; seeds are fixed."""
    torch.manual_seed(0)
    network = tiny_network(config).requires_grad_(True)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.05)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE)
    data, generator = library_text(is_held_out=False), torch.Generator().manual_seed(0)
    for step in range(num_steps):
        start = int(torch.randint(len(data) - 257, (1,), generator=generator))
        tokens, seen = data[start : start + 257], _States()
        network(tokens[:-1], depth=4, recorder=seen)
        read_outs = [network.logits(network.parts.read_out(state)) for state in seen.after]
        loss = sum(cross_entropy(one, tokens[1:]) for one in read_outs) / len(read_outs)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.param_groups[0]["lr"] = _LEARNING_RATE * (1 - step / num_steps)
        if step % 100 == 0:
            print(f"step {step}: {float(loss):.3f}", file=sys.stderr, flush=True)
    return network.requires_grad_(False)


def library_text(*, is_held_out: bool) -> torch.Tensor:
    """Return bytes of the standard library's modules; every fourth module is held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    chosen = [path for i, path in enumerate(files) if (i % 4 == 0) == is_held_out]
    return torch.tensor(list(b"".join(path.read_bytes() for path in chosen)))


def held_out(num_sequences: int) -> Iterator[torch.Tensor]:
    """Yield sequences from files that were not trained on, evenly spread."""
    data = library_text(is_held_out=True)
    for i in range(num_sequences):
        start = i * (len(data) - 257) // num_sequences
        yield data[start : start + 257]


def read(network: LoopedNetwork, tokens: torch.Tensor, stop: ExitRequest, chunk: int) -> tuple[Any, Any]:
    """Return the logits (T, V) and the depth (T,) of each token, read in chunks."""
    cache = KVCache(len(tokens))
    outputs = [network(part, depth=4, exit_request=stop, cache=cache) for part in tokens[:-1].split(chunk)]
    return torch.cat([one.logits_TV for one in outputs]), torch.cat([one.depth_T for one in outputs])


def compared(
    network: LoopedNetwork,
    exact: list[tuple[Any, Any]],
    sequences: list[torch.Tensor],
    stop: ExitRequest,
    chunk: int,
) -> Row:
    """Return the means over all bytes."""
    losses, kls, depths = [], [], []
    for tokens, (exact_TV, _) in zip(sequences, exact, strict=True):
        logits_TV, depth_T = read(network, tokens, stop, chunk)
        losses.append(cross_entropy(logits_TV, tokens[1:]))
        ours_TV, theirs_TV = logits_TV.log_softmax(-1), exact_TV.log_softmax(-1)
        kls.append((theirs_TV.exp() * (theirs_TV - ours_TV)).sum(-1).mean())
        depths.append(depth_T.float().mean())
    return Row(*(float(torch.stack(values).mean()) for values in (losses, kls, depths)))


if __name__ == "__main__":
    sys.exit(main())
