"""What one engine is started with. Two engines with the same `engine_id` are interchangeable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.exceptions import ModelUnavailableError

if TYPE_CHECKING:
    from model.config import LoopedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The settings of one engine; every field changes what it answers or what it can hold."""

    model_path: str  # a checkpoint folder: config.json, tokenizer, safetensors
    dtype: str = (
        "auto"  # of activations and unquantised weights; "auto": the checkpoint's, where the CPU has it
    )
    max_model_tokens: int = 4096  # prompt and completion together
    max_num_seqs: int = 32  # requests in one batch
    max_recurrence_depth: int = 4  # 1 starts the plain model, without any loop
    kv_cache_bytes: int = 2 << 30
    num_threads: int | None = None  # None: every CPU that this process may use
    seed: int = 0
    loop: LoopedConfig | None = None  # None: as the checkpoint says, or the default window for its layers
    enable_prefix_caching: bool = True

    def resolved(self) -> EngineSettings:
        """Return the settings with an absolute path and the loop that the engine will run.

        Raises:
            ModelUnavailableError: the folder holds no readable config.json, or one that cannot be looped.
        """
        path = Path(self.model_path).expanduser().resolve()
        config = _read_config(path)
        loop = self._loop(config)
        return replace(
            self,
            model_path=str(path),
            loop=loop,
            # A checkpoint that was trained deeper is served as deep.
            max_recurrence_depth=loop.max_recurrence_depth if loop else 1,
            dtype=self._dtype(config),
        )

    def _dtype(self, config: dict) -> str:
        from model.provision.cpu import computing_dtype
        from workers.engine.environment import is_cpu_build

        if self.dtype != "auto":
            return self.dtype
        # vLLM's own "auto" turns a float32 checkpoint into bfloat16, which most CPUs emulate.
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
        return computing_dtype(dtype, "quantization_config" in config) if is_cpu_build() else dtype

    def _loop(self, config: dict) -> LoopedConfig | None:
        from model.checkpoints import is_looped, read_config
        from model.exceptions import ModelError

        is_trained = is_looped(config)
        if self.max_recurrence_depth == 1 and self.loop is None and not is_trained:
            return None
        try:
            loop = self.loop or read_config(config)
            least = loop.recurrence_depth if is_trained else 1
            return replace(loop, max_recurrence_depth=max(self.max_recurrence_depth, least))
        except ModelError as error:
            raise ModelUnavailableError(
                f"the checkpoint cannot be looped: {error}",
                hint=error.hint or "A plain model of any architecture runs with max_recurrence_depth 1.",
            ) from error

    @property
    def engine_id(self) -> str:
        """Return a hash of every setting: the same id, the same engine."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def _read_config(path: Path) -> dict:
    try:
        return json.loads((path / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(
            f"no checkpoint at {path}: {error}", hint="Run `loopwright model pull`, or pass --model FOLDER."
        ) from error
