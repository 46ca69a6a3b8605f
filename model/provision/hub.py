"""The Hugging Face hub as a source: a pinned revision, short timeouts, every large file's sha256 checked."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from model.exceptions import ModelError
from model.provision.catalogue import HubRepository
from model.provision.progress import OnProgress, watching
from model.provision.store import sha256_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TIMEOUT_SECONDS = 5.0
_WANTED = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
)


def fetch_from_hub(repository: HubRepository, folder: Path, on_progress: OnProgress) -> Path:
    """Return `folder/hub` with the repository's checkpoint at the pinned revision, complete.

    What an earlier, interrupted call left in `folder/hub.partial` is used again.

    HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN and the proxy variables are heeded as everywhere.

    Raises:
        ModelError: the hub is offline, out of reach, lacks the revision, or sent something else.
    """
    target, partial = folder / "hub", folder / "hub.partial"
    if target.is_dir():
        return target
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # on_progress shows it
    api = HfApi()
    try:
        info = api.model_info(
            repository.repo_id,
            revision=repository.revision,
            files_metadata=True,
            timeout=_TIMEOUT_SECONDS,
        )
        wanted = [file for file in info.siblings or () if _is_wanted(file.rfilename)]
        with watching(partial, repository.num_bytes, on_progress, "Hugging Face hub"):
            for file in wanted:
                _fetch_file(api, repository, file, partial)
    except ModelError:
        raise
    except Exception as exc:  # the client's errors have no common base class of its own
        raise ModelError(f"the Hugging Face hub gave no model: {type(exc).__name__}: {exc}") from exc
    partial.rename(target)
    return target


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    return len(path.parts) == 1 and any(path.match(pattern) for pattern in _WANTED)


def _fetch_file(api: HfApi, repository: HubRepository, file: Any, folder: Path) -> None:
    path = folder / file.rfilename
    api.hf_hub_download(
        repository.repo_id,
        file.rfilename,
        revision=repository.revision,
        local_dir=folder,
        etag_timeout=_TIMEOUT_SECONDS,
    )
    if file.lfs is not None and sha256_of(path) != file.lfs.sha256:
        path.unlink()
        raise ModelError(
            f"{file.rfilename} from the hub has another sha256 than the hub says; it was deleted"
        )
