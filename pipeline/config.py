"""Settings: built-in defaults, then a YAML file, then LOOPWRIGHT_* variables, then flags.

Unknown keys are errors. The resolved settings are kept with every run.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.core import Limits


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineSection(_Section):
    """The local engine."""

    max_model_tokens: int = Field(default=4096, ge=256)
    max_num_seqs: int = Field(default=32, ge=1)
    kv_cache_bytes: int = Field(default=2 << 30, ge=64 << 20)
    idle_timeout_seconds: float = Field(default=1800.0, gt=0)  # a warm engine that nobody uses ends
    start_timeout_seconds: float = Field(default=600.0, gt=0)


class EndpointSection(_Section):
    """An OpenAI-compatible server to draft with, in place of the local engine."""

    url: str = ""  # empty: the local engine
    model: str = ""
    api_key_variable: str = "OPENAI_API_KEY"
    max_model_tokens: int = Field(default=8192, ge=256)


class SandboxSection(_Section):
    """Where tests run."""

    kind: Literal["auto", "docker", "bubblewrap"] = "auto"
    num_parallel: int = Field(default=2, ge=1)
    image: str = "loopwright-python:3.11"
    prepare_timeout_seconds: float = Field(default=900.0, gt=0)


class Rung(_Section):
    """One round of the escalation ladder."""

    num_candidates: int = Field(default=8, ge=1)  # spread over the suspects
    num_suspects: int = Field(default=1, ge=1)
    recurrence_depth: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.8, ge=0)
    greedy_first: bool = True  # the first candidate of each suspect is greedy
    context: Literal["narrow", "wide"] = "narrow"  # wide adds callees and siblings
    feedback: bool = False  # show the best failing candidate and why it failed


def _default_ladder() -> tuple[Rung, ...]:
    # Samples before depth: samples run in parallel and the tests tell them apart; depth multiplies latency.
    return (
        Rung(num_candidates=8, num_suspects=1),
        Rung(num_candidates=16, num_suspects=3),
        Rung(num_candidates=8, num_suspects=2, recurrence_depth=2, greedy_first=True),
        Rung(
            num_candidates=8,
            num_suspects=2,
            context="wide",
            feedback=True,
            temperature=1.0,
            recurrence_depth=4,
        ),
    )


class PlannerSection(_Section):
    """How the planner searches."""

    ladder: tuple[Rung, ...] = Field(default_factory=_default_ladder, min_length=1)
    max_prompt_tokens: int = Field(default=2048, ge=128)
    num_suspects: int = Field(default=10, ge=1)  # kept by localise
    top_p: float = Field(default=0.95, gt=0, le=1)
    seed: int = 0


class Settings(BaseSettings):
    """Everything that may be set."""

    model_config = SettingsConfigDict(
        env_prefix="LOOPWRIGHT_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    model: str = "qwen2.5-coder-0.5b"  # a catalogue name or the path of a checkpoint
    model_dtype: Literal["auto", "int8", "float32", "bfloat16"] = "auto"
    engine: EngineSection = EngineSection()
    endpoint: EndpointSection = EndpointSection()
    sandbox: SandboxSection = SandboxSection()
    planner: PlannerSection = PlannerSection()
    limits: Limits = Limits()
