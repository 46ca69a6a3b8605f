"""Config classes for published model types that transformers does not know, so that their folders open.

They hold what the file says; `model.checkpoints` reads it, and `setup.hf_overrides` says it again in vLLM's
names. Each is a class of its own name, since vLLM pickles configs on their way to other processes.
"""

from __future__ import annotations

from transformers import PretrainedConfig

from model.checkpoints.native import MODEL_TYPE


class OuroConfig(PretrainedConfig):
    """Ouro's."""

    model_type = "ouro"


class NanbeigeConfig(PretrainedConfig):
    """Nanbeige's."""

    model_type = "nanbeige"


class IQuestLoopCoderConfig(PretrainedConfig):
    """IQuest-Coder Loop's."""

    model_type = "iquestloopcoder"


class RavenConfig(PretrainedConfig):
    """Huginn's, and that of retrofitted models."""

    model_type = "huginn_raven"


class ParcaeConfig(PretrainedConfig):
    """Parcae's."""

    model_type = "parcae"


class LoopedDecoderConfig(PretrainedConfig):
    """That of checkpoints in our own layout."""

    model_type = MODEL_TYPE


LOOPED_CONFIGS: tuple[type[PretrainedConfig], ...] = (
    OuroConfig,
    NanbeigeConfig,
    IQuestLoopCoderConfig,
    RavenConfig,
    ParcaeConfig,
    LoopedDecoderConfig,
)
