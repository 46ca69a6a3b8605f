"""How a family names its tensors: a table of what stands under which name, read in both directions.

One published tensor may hold several canonical ones along its first axis. Canonical names are those of
`LoopedNetwork.named_parameters()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model.exceptions import CheckpointError

if TYPE_CHECKING:
    import torch

_SUFFIXES = ("", ".weight", ".bias")


@dataclass(frozen=True, slots=True)
class Entry:
    """A published module or parameter, and what it is made of."""

    published: str
    canonical: tuple[str, ...]
    sizes: tuple[int, ...] = ()  # of the parts along the first axis, where there are several
    num_unit_axes: int = 0  # in front of each part, as it is published


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of one checkpoint. `entries` hold modules ("a.b" for "a.b.weight", …) and bare parameters."""

    entries: tuple[Entry, ...]
    skipped: frozenset[str] = frozenset()  # last parts of names of buffers, and whole names of tied copies
    hint: str = ""  # where a tensor is unknown
    _by_published: Mapping[str, Entry] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_published", {entry.published: entry for entry in self.entries})

    def canonical(self, name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """Return the canonical tensors that a published one holds: none for a buffer, several where fused.

        Quantised checkpoints work too: whatever belongs to a module goes where its weight goes.

        Raises:
            CheckpointError: the family has no such tensor, or its first axis does not hold what it should.
        """
        if name in self.skipped or name.rpartition(".")[2] in self.skipped:
            return []
        module, _, last = name.rpartition(".")
        entry, suffix = self._by_published.get(name), ""
        if entry is None:
            entry, suffix = self._by_published.get(module), f".{last}"
        if entry is None:
            raise CheckpointError(
                f"unknown tensor {name}: no part of this architecture has that name", hint=self.hint
            )
        return list(
            zip((f"{one}{suffix}" for one in entry.canonical), _parts(entry, name, tensor), strict=True)
        )

    def published(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield canonical tensors under their published names, fused where the family fuses them."""
        import torch

        for entry in self.entries:
            for suffix in _SUFFIXES:
                if f"{entry.canonical[0]}{suffix}" not in tensors:
                    continue
                parts = [tensors[f"{one}{suffix}"] for one in entry.canonical]
                parts = [part[(None,) * entry.num_unit_axes] for part in parts]
                yield f"{entry.published}{suffix}", torch.cat(parts) if len(parts) > 1 else parts[0]

    def published_name(self, canonical: str) -> str:
        """Return the name of the published tensor that holds this one."""
        for entry in self.entries:
            for one in entry.canonical:
                if canonical == one or canonical.rpartition(".")[0] == one:
                    return entry.published + canonical.removeprefix(one)
        return canonical


def _parts(entry: Entry, name: str, tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    if len(entry.canonical) == 1:
        return [tensor]
    if tensor.dim() == 0:  # a quantised tensor's one scale
        return [tensor] * len(entry.canonical)
    if tensor.shape[0] != sum(entry.sizes):
        raise CheckpointError(
            f"{name} has shape {tuple(tensor.shape)}: its first axis should hold "
            f"{' + '.join(map(str, entry.sizes))} = {sum(entry.sizes)}"
        )
    return [part.reshape(part.shape[entry.num_unit_axes :]) for part in tensor.split(entry.sizes)]


def one(published: str, canonical: str) -> Entry:
    """Return an entry whose tensors only have other names."""
    return Entry(published, (canonical,))


def layout_with_head(
    entries: Sequence[Entry], skipped: frozenset[str], *, is_tied: bool, hint: str = ""
) -> Layout:
    """Return these names and the head's; a tied head's copy is skipped."""
    if is_tied:
        return Layout(tuple(entries), skipped | {"lm_head.weight"}, hint)
    return Layout((*entries, one("lm_head", "lm_head")), skipped, hint)
