"""Keys and values of one sequence, by layer and slot. Not every token has to stand in every slot."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(slots=True)
class Slot:
    """What one layer holds of one pass: S places for tokens, H key heads, K the width of a head."""

    keys_SHK: torch.Tensor
    values_SHK: torch.Tensor
    is_present_S: torch.Tensor


@dataclass(slots=True)
class KVCache:
    """The cache of one sequence of at most `max_tokens`."""

    max_tokens: int
    num_tokens: int = 0
    slots: dict[tuple[int, int], Slot] = field(default_factory=dict)  # by (layer, slot)

    def write(
        self,
        layer: int,
        slot: int,
        positions_A: torch.Tensor,
        keys_AHK: torch.Tensor,
        values_AHK: torch.Tensor,
    ) -> None:
        """Keep the keys and values of these positions."""
        if (layer, slot) not in self.slots:
            shape = (self.max_tokens, *keys_AHK.shape[1:])
            present_S = torch.zeros(self.max_tokens, dtype=torch.bool)
            self.slots[layer, slot] = Slot(keys_AHK.new_zeros(shape), values_AHK.new_zeros(shape), present_S)
        one = self.slots[layer, slot]
        one.keys_SHK[positions_A] = keys_AHK
        one.values_SHK[positions_A] = values_AHK
        one.is_present_S[positions_A] = True

    def read(self, layer: int, slot: int, positions_A: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of these positions."""
        one = self.slots[layer, slot]
        return one.keys_SHK[positions_A].clone(), one.values_SHK[positions_A].clone()

    def copy(self, layer: int, source: int, target: int, positions_A: torch.Tensor) -> None:
        """Put what one slot holds of these positions into another."""
        self.write(layer, target, positions_A, *self.read(layer, source, positions_A))

    def keep_slots(self, layers: range, num_slots: int) -> None:
        """Forget all but the first `num_slots` slots of these layers, as a shallower request leaves it."""
        self.slots = {
            (layer, slot): one
            for (layer, slot), one in self.slots.items()
            if layer not in layers or slot < num_slots
        }
