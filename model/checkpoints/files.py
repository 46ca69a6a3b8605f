"""The files of a checkpoint folder: config.json, tensors in one or several files, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.exceptions import CheckpointError

if TYPE_CHECKING:
    import torch

_INDEX_SUFFIX = ".index.json"


def read_config_file(folder: Path) -> dict[str, Any]:
    """Return what config.json of this folder says.

    Raises:
        CheckpointError: there is none, or it is no JSON object.
    """
    return _json(folder / "config.json")


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each tensor under its published name, from safetensors, or else from PyTorch's own files.

    Raises:
        CheckpointError: there are no tensors, a file that the index names is missing, or one is damaged.
    """
    for path in _weight_files(folder):
        try:
            yield from _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"{path.name} cannot be read: {error}") from error


def _weight_files(folder: Path) -> list[Path]:
    for suffix in (".safetensors", ".bin"):
        indices = sorted(folder.glob(f"*{suffix}{_INDEX_SUFFIX}"))
        if indices:
            return _indexed_files(folder, indices[0])
        files = sorted(folder.glob(f"*{suffix}"))
        if files:
            return files
    raise CheckpointError(f"{folder} holds no *.safetensors and no *.bin files")


def _indexed_files(folder: Path, index: Path) -> list[Path]:
    weight_map = _json(index).get("weight_map")
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing or not names:
        raise CheckpointError(f"{index.name} names files that are not there: {', '.join(missing) or 'none'}")
    return [folder / name for name in names]


def _safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield name, file.get_tensor(name)


def _pickled(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    yield from torch.load(path, map_location="cpu", weights_only=True, mmap=True).items()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value
