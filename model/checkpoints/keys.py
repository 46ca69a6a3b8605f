"""The keys of a published config.json: read once each, and none that changes the function is passed over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from model.config import RopeConfig
from model.exceptions import CheckpointError

# Settings of a loop, beside the published ones, in config.json or in an engine's overrides.
LOOP_KEY = "loopwright_loop"

# Bookkeeping, tokens, training and the library's own switches: the function is the same whatever they say.
_HARMLESS = frozenset(
    {
        *("_name_or_path", "_commit_hash", "name", "hf_config", "architectures", "auto_map", "model_type"),
        *("torch_dtype", "dtype", "transformers_version", "quantization_config", "tokenizer_class"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "model_file"),
        *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "problem_type"),
        *("id2label", "label2id", "is_encoder_decoder", "chunk_size_feed_forward", "max_window_layers"),
        *("initializer_range", "attention_dropout", "hidden_dropout", "resid_dropout", "embd_dropout"),
        *("_attn_implementation", "attn_impl", "_attn_implementation_autoset", "padding_multiple"),
    }
)

_WHOLE, _REAL = (int,), (int, float)
_LOOP_NUMBERS: Mapping[str, tuple[type, ...]] = {  # the other settings are words
    **dict.fromkeys(("recurrence_depth", "min_recurrence_depth", "max_recurrence_depth"), _WHOLE),
    **dict.fromkeys(("window_start", "window_stop", "num_shared_slots"), _WHOLE),
    **dict.fromkeys(("exit_threshold", "anchor_weight"), _REAL),
}


class Keys:
    """A config.json, of which each key is read, checked or known to be harmless."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._seen = set(_HARMLESS)
        self.model_type = _model_type(values)
        self.rest_of_loop = dict(self.table(LOOP_KEY))

    def get(self, *names: str) -> Any:
        """Return the value of the first of these names that is there and not null, or None."""
        self._seen.update(names)
        return next((self._values[name] for name in names if self._values.get(name) is not None), None)

    def count(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """Return a whole number under the first of these names that is there.

        Raises:
            CheckpointError: none is and there is no default, or it is not a whole number from `least`.
        """
        value = self._get_or(names, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise CheckpointError(f"{names[0]} is {value!r} in config.json: no whole number from {least}")
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        """Return a finite number above 0, alike."""
        return positive(names[0], self._get_or(names, default))

    def flag(self, *names: str, default: bool | None = False) -> bool:
        """Return true or false, alike."""
        value = self._get_or(names, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{names[0]} is {value!r} in config.json: neither true nor false")
        return value

    def table(self, *names: str) -> Mapping[str, Any]:
        """Return an object, an empty one where none of these names is there."""
        value = self._get_or(names, {})
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{names[0]} is {value!r} in config.json: no object")
        return value

    def _get_or(self, names: tuple[str, ...], default: Any) -> Any:
        value = self.get(*names)
        if value is None and default is None:
            raise CheckpointError(f"config.json of {self.model_type!r} has no {names[0]}")
        return default if value is None else value

    def only(self, name: str, *allowed: Any) -> None:
        """Let the key be absent, null or one of these values.

        Raises:
            CheckpointError: it is anything else.
        """
        self._seen.add(name)
        value = self._values.get(name)
        if value is not None and value not in allowed:
            options = " or ".join(repr(one) for one in allowed)
            raise CheckpointError(
                f"{name} is {value!r} in config.json; of {self.model_type!r} only {options} is implemented"
            )

    def off(self, *names: str) -> None:
        """Let these features be absent or turned off.

        Raises:
            CheckpointError: one is turned on.
        """
        for name in names:
            self._seen.add(name)
            if self._values.get(name):
                raise CheckpointError(
                    f"config.json sets {name} to {self._values[name]!r}: this feature is not implemented",
                    hint="no released checkpoint of this family sets it",
                )

    def ignore(self, *names: str) -> None:
        """Pass over keys that say how the model was trained, or that size a feature which is off."""
        self._seen.update(names)

    def rope(self, *, theta: float = 10_000.0, base_key: str = "rope_theta") -> RopeConfig:
        """Return rotary positions from `rope_theta` and `rope_scaling`, or `rope_parameters`."""
        self.only("partial_rotary_factor", 1, 1.0)
        self.only("rope_type", "default")
        given = dict(self.table("rope_parameters", "rope_scaling"))
        theta = self.number("rope_theta", base_key, default=theta)
        theta = positive("rope_theta", given.pop("rope_theta", theta))
        kind = given.get("rope_type", given.get("type", "default"))
        return RopeConfig(theta=theta, scaling=None if kind == "default" else {**given, "rope_type": kind})

    def full_attention(self) -> None:
        """Check that each layer attends to everything before it."""
        self.only("use_sliding_window", False)
        if self._values.get("use_sliding_window") is None:
            self.off("sliding_window")
        self.ignore("sliding_window")  # a number beside use_sliding_window false means nothing
        types = self.get("layer_types") or []
        if not isinstance(types, list | tuple) or any(one != "full_attention" for one in types):
            raise CheckpointError(f"layer_types in config.json holds others than full_attention: {types}")

    def loop(self, *names: str) -> dict[str, Any]:
        """Return these of the settings under `LOOP_KEY`, as far as they are there, once.

        Raises:
            CheckpointError: one is of another type than it should be.
        """
        taken = {name: self.rest_of_loop.pop(name) for name in names if name in self.rest_of_loop}
        for name, value in taken.items():
            kinds = _LOOP_NUMBERS.get(name, (str,))
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise CheckpointError(f"{name} is {value!r} under {LOOP_KEY}: no {kinds[-1].__name__}")
        return taken

    def finish(self) -> None:
        """Check that nothing was left unread.

        Raises:
            CheckpointError: an unknown key; what it does to the function is not known here.
        """
        unknown = sorted(set(self._values) - self._seen - {LOOP_KEY})
        if unknown:
            raise CheckpointError(
                f"unknown in config.json of {self.model_type!r}: {', '.join(unknown)}",
                hint="Remove the keys if they do not change what the network computes.",
            )


def positive(name: str, value: Any) -> float:
    """Return `value` as a finite number above 0.

    Raises:
        CheckpointError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(f"{name} is {value!r} in config.json: no number above 0")
    return float(value)


def _model_type(values: Mapping[str, Any]) -> str:
    """Return the model_type. Parcae's own configs have none, but name their class."""
    if values.get("_class_name") == "ParcaeConfig" or values.get("model_class_name") == "Parcae":
        return "parcae"
    return str(values.get("model_type", ""))
