"""Config classes for published model types that transformers does not know, so that their folders can be
opened.

They hold what the file says; `model.checkpoints` reads it, and `setup.hf_overrides` says it again in vLLM's
names.
"""

from __future__ import annotations

from transformers import PretrainedConfig

from model.checkpoints.native import MODEL_TYPE

_PUBLISHED = ("ouro", "nanbeige", "iquestloopcoder", "huginn_raven", "parcae")

LOOPED_CONFIGS: tuple[type[PretrainedConfig], ...] = tuple(
    type("LoopedCheckpointConfig", (PretrainedConfig,), {"model_type": name})
    for name in (*_PUBLISHED, MODEL_TYPE)
)
