"""Chooses a checkpoint's family by its `model_type` and reads its config; `Adapter` holds what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from model.checkpoints import llama_names, native, parcae, raven
from model.checkpoints.keys import LOOP_KEY, Keys
from model.checkpoints.layout import Layout
from model.config import LoopedConfig
from model.exceptions import CheckpointError

if TYPE_CHECKING:
    import torch

# What a server may choose for a checkpoint: no weight depends on it.
SERVING_SETTINGS = (
    *("recurrence_depth", "min_recurrence_depth", "max_recurrence_depth", "kv_policy", "num_shared_slots"),
    *("exit_rule", "exit_threshold"),
)


@dataclass(frozen=True, slots=True)
class _Family:
    write: Callable[[LoopedConfig], dict[str, Any]]
    layout: Callable[[LoopedConfig], Layout] | None  # None: canonical names


_READERS: Mapping[str, Callable[[Keys], LoopedConfig]] = {
    "iquestloopcoder": llama_names.read_iquest,
    "ouro": llama_names.read_ouro,
    "nanbeige": llama_names.read_nanbeige,
    "huginn_raven": raven.read,
    "parcae": parcae.read,
    native.MODEL_TYPE: native.read,
    **dict.fromkeys(llama_names.DENSE_TYPES, llama_names.read_dense),
}
_FAMILIES: Mapping[str, _Family] = {
    "iquest-loop": _Family(llama_names.write_iquest, llama_names.layout),
    "ouro": _Family(llama_names.write_ouro, llama_names.layout),
    "nanbeige": _Family(llama_names.write_nanbeige, llama_names.layout),
    "training-free": _Family(llama_names.write_dense, llama_names.layout),
    "huginn": _Family(raven.write, raven.layout),
    "retrofit": _Family(raven.write, raven.layout),
    "parcae": _Family(parcae.write, parcae.layout),
}
_NATIVE = _Family(native.write, None)
_REFUSED = {
    "iquestpltcoder": "LoopCoder-v2 shifts states by one token between loops and adds the embedding again",
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checkpoint's names and config. Canonical names are those of `LoopedNetwork.named_parameters()`."""

    config: LoopedConfig
    layout: Layout | None

    def canonical(self, name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """Return the canonical tensors that a published one holds; see `Layout.canonical`."""
        return [(name, tensor)] if self.layout is None else self.layout.canonical(name, tensor)

    def published(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield canonical tensors under their published names; copies of tied ones are left out."""
        if self.layout is not None:
            yield from self.layout.published(tensors)
            return
        tied = {"lm_head.weight"} if self.config.tie_word_embeddings else set()
        yield from ((name, tensor) for name, tensor in tensors.items() if name not in tied)

    def published_name(self, canonical: str) -> str:
        """Return the name in the checkpoint of what holds a canonical tensor."""
        return canonical if self.layout is None else self.layout.published_name(canonical)

    def published_config(self) -> dict[str, Any]:
        """Return config.json, with what the family has no key for under `LOOP_KEY`.

        Raises:
            CheckpointError: the published format cannot say all of it.
        """
        written = _family(self.config).write(self.config)
        plain = read_config(written)
        chosen = {
            name: getattr(self.config, name)
            for name in SERVING_SETTINGS
            if getattr(self.config, name) != getattr(plain, name)
        }
        if chosen:
            written[LOOP_KEY] = {**written.get(LOOP_KEY, {}), **chosen}
        if read_config(written) != self.config:
            raise CheckpointError(
                f"{self.config.family}'s published config has no keys for these settings: "
                f"{', '.join(_differences(read_config(written), self.config))}"
            )
        return written


def adapter_for(config: LoopedConfig | Mapping[str, Any]) -> Adapter:
    """Return the adapter of a checkpoint, from its config.json or what was read of it.

    Raises:
        CheckpointError: see `read_config`.
    """
    looped = config if isinstance(config, LoopedConfig) else read_config(config)
    layout = _family(looped).layout
    return Adapter(looped, layout(looped) if layout else None)


def read_config(config: Mapping[str, Any]) -> LoopedConfig:
    """Return what a config.json describes. Under `LOOP_KEY` it may hold settings of the loop.

    Of a dense checkpoint these are the fields of `model.loop.LoopConfig`; of any, `SERVING_SETTINGS`.

    Raises:
        CheckpointError: an unknown architecture, or a key that is missing, unknown or sets what is not
            implemented.
        LoopConfigError: the settings contradict each other.
    """
    keys = Keys(config)
    if keys.model_type in _REFUSED:
        raise CheckpointError(f"{keys.model_type} is not implemented: {_REFUSED[keys.model_type]}")
    if keys.model_type not in _READERS:
        raise CheckpointError(
            f"no adapter for model_type {keys.model_type!r}", hint=f"known: {', '.join(sorted(_READERS))}"
        )
    looped = _READERS[keys.model_type](keys)
    keys.finish()
    chosen = keys.loop(*SERVING_SETTINGS)
    if keys.rest_of_loop:
        raise CheckpointError(f"unknown under {LOOP_KEY}: {', '.join(sorted(keys.rest_of_loop))}")
    if "recurrence_depth" in chosen and "max_recurrence_depth" not in chosen:
        chosen["max_recurrence_depth"] = max(chosen["recurrence_depth"], looped.max_recurrence_depth)
    return replace(looped, **chosen)


def is_looped(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is of a family that was trained with loops."""
    model_type = Keys(config).model_type
    return model_type in _READERS and model_type not in llama_names.DENSE_TYPES


def _family(config: LoopedConfig) -> _Family:
    return _FAMILIES.get(config.family, _NATIVE)


def _differences(one: LoopedConfig, other: LoopedConfig) -> list[str]:
    first, second = one.to_json_dict(), other.to_json_dict()
    names = [name for name in first if name != "block" and first[name] != second[name]]
    return [*names, *(name for name in first["block"] if first["block"][name] != second["block"][name])]
