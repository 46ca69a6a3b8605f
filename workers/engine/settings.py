"""What one engine is started with. Two engines with the same `engine_id` are interchangeable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.exceptions import ModelUnavailableError

if TYPE_CHECKING:
    from model.loop import LoopConfig


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
    loop: LoopConfig | None = None  # None: the checkpoint's own loop, or the default window for its layers
    enable_prefix_caching: bool = True

    def resolved(self) -> EngineSettings:
        """Return the settings with an absolute path and the loop that the engine will run.

        Raises:
            ModelUnavailableError: the folder holds no readable config.json.
        """
        path = Path(self.model_path).expanduser().resolve()
        config = _read_config(path)
        return replace(self, model_path=str(path), loop=self._loop(config), dtype=self._dtype(config))

    def _dtype(self, config: dict) -> str:
        from model.provision.cpu import computing_dtype
        from workers.engine.environment import is_cpu_build

        if self.dtype != "auto":
            return self.dtype
        # vLLM's own "auto" turns a float32 checkpoint into bfloat16, which most CPUs emulate.
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
        return computing_dtype(dtype, "quantization_config" in config) if is_cpu_build() else dtype

    def _loop(self, config: dict) -> LoopConfig | None:
        from model.loop import LoopConfig
        from model.vllm_plugin.serving import LOOP_KEY

        if self.max_recurrence_depth == 1 and self.loop is None:
            return None
        if self.loop is not None:
            loop = self.loop
        elif LOOP_KEY in config:
            loop = LoopConfig.from_json_dict(config[LOOP_KEY])
        else:
            loop = LoopConfig.for_num_layers(config["num_hidden_layers"])
        return replace(loop, max_recurrence_depth=self.max_recurrence_depth)

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
