"""The numbers of an inspection: what each loop and each layer of the core does to the tokens of a prompt.

All are means over the tokens that run in a loop; trajectories and top tokens are the last token's.
Sources: arXiv 2604.11791 (fixed points of layers, stages), 2509.23314 (step sizes), 2606.24898 (hidden RMS).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch

from model.exceptions import LoopConfigError
from model.exits import ExitRequest
from model.inspection.recording import Recording
from model.inspection.trajectory import Trajectory, trajectories
from model.network import KVCache, LoopedNetwork

Stage = Literal["early", "middle", "late"]
_EARLY, _LATE = 0.5, 0.1  # of the way to the last state that is still to go


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMeasure:
    """One layer in one loop (from 1). None where there is no earlier loop to compare with."""

    loop: int
    layer: int
    update_norm: float  # |output - input|
    hidden_rms: float  # of the output
    relative_change: float | None  # |output - the same layer's output one loop before| / |output|
    cosine: float | None  # between these two
    attention_change: float | None  # total variation of the attention's probabilities, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopMeasure:
    """One loop (from 1)."""

    loop: int
    relative_change: float  # |state after - state before| / |state after|
    hidden_rms: float
    distance_to_last: float  # |state - last state| / |first loop's input - last state|
    stage: Stage  # over 0.5 of that distance left to go, 0.1 to 0.5, less
    kl_to_previous: float | None  # nats, of the read-out after this loop from the one before
    kl_to_last: float  # nats, of the last loop's read-out from this one
    top_token: str  # likeliest after the last token, if the model stopped here


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What one prompt shows."""

    family: str
    prompt: str
    num_tokens: int
    depth: int
    layers: tuple[LayerMeasure, ...]
    loops: tuple[LoopMeasure, ...]
    trajectories: tuple[Trajectory, ...]
    shown_variance: float  # share of the trajectories' variance that lies in their plane
    exit_rule: str
    exit_threshold: float
    halting: dict[int, int]  # tokens by the loop after which their state was taken

    def to_json_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values; null for what is not finite."""
        return cast("dict[str, Any]", _json_ready(asdict(self)))


def inspect_network(
    network: LoopedNetwork,
    token_ids: list[int],
    *,
    depth: int | None = None,
    exit_request: ExitRequest | None = None,
    prompt: str = "",
    decode: Callable[[int], str] = str,
) -> Inspection:
    """Run a prompt to `depth` without exits and measure it; then count where `exit_request` would stop it.

    Args:
        network: the model.
        token_ids: the prompt's.
        depth: loops; the checkpoint's own when None.
        exit_request: the checkpoint's own rule when None.
        prompt: the text, for the record.
        decode: a token's text.

    Raises:
        DepthError: the depth is outside the checkpoint's range.
        LoopConfigError: each layer finishes its loops before the next, so that there are no loops to compare.
    """
    config = network.config
    if config.loop_order == "layer":
        raise LoopConfigError("loops of single layers have no common state; inspect loop_order 'model'")
    depth = config.recurrence_depth if depth is None else depth
    exit_request = exit_request or ExitRequest(
        config.exit_rule, config.exit_threshold, config.min_recurrence_depth
    )
    ids_T, seen = torch.tensor(token_ids), Recording(len(token_ids))
    with torch.inference_mode():
        network(ids_T, depth=depth, exit_request=ExitRequest(), recorder=seen)
        read_outs = _read_outs(network, seen, ids_T, depth)
        halting = Counter(network(ids_T, depth=depth, exit_request=exit_request).depth_T.tolist())
    last = {
        layer: torch.stack([x[-1] for (_, one), x in seen.outputs.items() if one == layer]).float()
        for layer in range(config.core_start, config.core_stop)
    }
    paths = {layer: path[path.isfinite().all(-1)].numpy() for layer, path in last.items()}
    found, shown_variance = trajectories({layer: path for layer, path in paths.items() if len(path)})
    return Inspection(
        family=config.family,
        prompt=prompt,
        num_tokens=len(token_ids),
        depth=depth,
        layers=tuple(_layer(seen, *key) for key in seen.outputs),
        loops=_loops(seen, read_outs, decode),
        trajectories=found,
        shown_variance=shown_variance,
        exit_rule=exit_request.rule if config.gate in ("none", "hazard", "act") else config.gate,
        exit_threshold=exit_request.threshold,
        halting=dict(sorted(halting.items())),
    )


def _read_outs(
    network: LoopedNetwork, seen: Recording, ids_T: torch.Tensor, depth: int
) -> list[torch.Tensor]:
    """Return log-probabilities (T, V) after each loop, as coda and head read its state.

    A token that has left reads as it did when it left. Means and weights of gates are not applied.
    """
    positions_T = torch.arange(len(ids_T))
    state_TD, natural_TD = seen.start_TD, seen.outputs[0, network.config.core_stop - 1]
    found = []
    for _, after_TD in seen.states.values():
        state_TD = torch.where(after_TD.isfinite(), after_TD, state_TD)
        left_TD = network.parts.leave(state_TD, natural_TD, torch.full_like(ids_T, depth))
        read_TD = network.finish(left_TD, positions_T, ids_T, KVCache(len(ids_T)))
        found.append(network.logits(read_TD).float().log_softmax(-1))
    return found


def _layer(seen: Recording, pass_index: int, layer: int) -> LayerMeasure:
    output_TD = seen.outputs[pass_index, layer]
    input_TD = seen.outputs.get((pass_index, layer - 1))
    if input_TD is None:
        input_TD = seen.states[pass_index][0]
    earlier_TD = seen.outputs.get((pass_index - 1, layer))
    cosine = None if earlier_TD is None else torch.cosine_similarity(output_TD, earlier_TD, dim=-1)
    return LayerMeasure(
        loop=pass_index + 1,
        layer=layer,
        update_norm=_mean((output_TD - input_TD).norm(dim=-1)),
        hidden_rms=_mean(_rms(output_TD)),
        relative_change=None if earlier_TD is None else _mean(_relative(earlier_TD, output_TD)),
        cosine=None if cosine is None else _mean(cosine),
        attention_change=seen.attention_change.get((pass_index, layer)),
    )


def _loops(
    seen: Recording, read_outs: list[torch.Tensor], decode: Callable[[int], str]
) -> tuple[LoopMeasure, ...]:
    first_TD, last_TD = seen.start_TD, seen.states[max(seen.states)][1]
    whole_way_T = (first_TD - last_TD).norm(dim=-1).clamp_min(1e-12)
    found = []
    for k, (before_TD, after_TD) in seen.states.items():
        left_to_go = _mean((after_TD - last_TD).norm(dim=-1) / whole_way_T)
        logs = read_outs[k]
        found.append(
            LoopMeasure(
                loop=k + 1,
                relative_change=_mean(_relative(before_TD, after_TD)),
                hidden_rms=_mean(_rms(after_TD)),
                distance_to_last=left_to_go,
                stage="early" if left_to_go > _EARLY else "middle" if left_to_go > _LATE else "late",
                kl_to_previous=None if k == 0 else _kl(logs, read_outs[k - 1]),
                kl_to_last=_kl(read_outs[-1], logs),
                top_token=decode(int(logs[-1].argmax())),
            )
        )
    return tuple(found)


def _relative(before_TD: torch.Tensor, after_TD: torch.Tensor) -> torch.Tensor:
    return (after_TD - before_TD).norm(dim=-1) / after_TD.norm(dim=-1).clamp_min(1e-12)


def _rms(x_TD: torch.Tensor) -> torch.Tensor:
    return x_TD.float().square().mean(-1).sqrt()


def _kl(logs_TV: torch.Tensor, from_TV: torch.Tensor) -> float:
    return _mean((logs_TV.exp() * (logs_TV - from_TV)).sum(-1))


def _mean(values_T: torch.Tensor) -> float:
    """Return the mean over the tokens that ran."""
    return float(values_T.float().nanmean())


def _json_ready(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_ready(one) for key, one in value.items()}
    return [_json_ready(one) for one in value] if isinstance(value, list | tuple) else value
