"""Settings: built-in defaults, then a YAML file, then LOOPWRIGHT_* variables, then flags.

Unknown keys are errors. The resolved settings are kept with every run.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from pipeline.core import Budget, Limits
from pipeline.exceptions import InputError


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
    max_recurrence_depth: int = Field(default=1, ge=1)  # above 1 only for a vLLM with loopwright's plugin


class StrongSection(EndpointSection):
    """A stronger model's server, for the rungs that ask for it; the others draft with the run's own model."""


class SandboxSection(_Section):
    """Where tests run."""

    kind: Literal["auto", "docker", "bubblewrap"] = "auto"
    num_parallel: int = Field(default=2, ge=1)
    num_warm: int = Field(default=4, ge=0)  # sandboxes that are kept up and wait; each serves one run
    profile: str = ""  # a YAML file that weakens the hardened profile; empty: nothing does
    # Of Docker's image, or a program that bubblewrap finds; auto: 3.11, or what requires-python asks for.
    python: Literal["auto", "3.9", "3.10", "3.11", "3.12", "3.13"] = "auto"
    image: str = ""  # another image for Docker, by tag or id; it needs Python with venv, perl and GNU tar
    prepare_timeout_seconds: float = Field(default=900.0, gt=0)
    lost_after_seconds: float = Field(default=120.0, ge=0)  # for an engine that restarts

    @field_validator("python", mode="before")
    @classmethod
    def _python_is_no_number(cls, value: Any) -> Any:
        # YAML reads 3.9 as a number, and 3.10 as 3.1.
        return {"3.1": "3.10"}.get(str(value), str(value)) if isinstance(value, float) else value


class Rung(_Section):
    """One round of the escalation ladder."""

    # What an answer is: one statement anew, or one more, the whole definition anew, or an edit of files.
    strategy: Literal["line", "insert", "definition", "blocks", "diff"] = "definition"
    num_candidates: int = Field(default=8, ge=1)  # spread over the suspects, and over their lines
    num_suspects: int = Field(default=1, ge=1)
    recurrence_depth: int = Field(default=0, ge=0)  # 0: as the model was trained
    temperature: float = Field(default=0.8, ge=0)
    # After a greedy draft of each prompt: splices of these answers, or branches, or samples.
    decoding: Literal["splice", "branch", "sample"] = "sample"
    context: Literal["narrow", "wide"] = "narrow"  # wide adds callees and siblings
    feedback: bool = False  # show the best failing candidate and why it failed
    model: Literal["own", "strong"] = "own"  # strong: the server of the section `strong`

    def at_own_depth(self, recurrence_depth: int) -> Rung:
        """Return the rung, at the depth that its model was trained for where it names none."""
        return (
            self if self.recurrence_depth else self.model_copy(update={"recurrence_depth": recurrence_depth})
        )


def _default_ladder() -> tuple[Rung, ...]:
    # By the tokens that each needs for a solved task (docs/benchmarks/repair.md): a small model copies a
    # definition that it is to rewrite, and the copy of a line already tells what else it nearly said there.
    # Deeper recurrence solved nothing more with the default model, so rungs run a model as it was trained.
    return (
        Rung(strategy="line", num_candidates=64, num_suspects=3, decoding="splice"),
        Rung(strategy="line", num_candidates=96, num_suspects=5, decoding="branch"),
        Rung(strategy="insert", num_candidates=64, num_suspects=3, decoding="branch"),
        Rung(num_candidates=16, num_suspects=2),
    )


class PlannerSection(_Section):
    """How the planner searches."""

    ladder: tuple[Rung, ...] = Field(default_factory=_default_ladder, min_length=1)
    policy: Literal["ladder", "learned"] = "ladder"  # rungs in their order, or as past verdicts teach
    max_prompt_tokens: int = Field(default=2048, ge=128)
    num_suspects: int = Field(default=10, ge=1)  # kept by localise
    # What ranks them: failing tests and words; or the model as well, going down the tree as `ask` does.
    localise_by: Literal["words", "descent"] = "words"
    # min_p (Nguyen et al. 2024) in place of top_p: it needs no sort of the vocabulary, which on a CPU takes
    # as long as the model itself.
    min_p: float = Field(default=0.05, ge=0, le=1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0


class Settings(BaseSettings):
    """Everything that may be set."""

    model_config = SettingsConfigDict(
        env_prefix="LOOPWRIGHT_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    model: str = "qwen2.5-coder-1.5b"  # a catalogue name or the path of a checkpoint
    model_dtype: Literal["auto", "int8", "float32", "bfloat16"] = "auto"
    engine: EngineSection = EngineSection()
    endpoint: EndpointSection = EndpointSection()
    strong: StrongSection = StrongSection()
    sandbox: SandboxSection = SandboxSection()
    planner: PlannerSection = PlannerSection()
    limits: Limits = Limits()
    reading: Budget = Budget()  # of a question to `ask`, and of a run that localises by a descent

    @model_validator(mode="after")
    def _strong_is_there(self) -> Settings:
        if not self.strong.url and any(rung.model == "strong" for rung in self.planner.ladder):
            raise ValueError("a rung of the ladder asks for the strong model: set strong.url")
        return self


def load_settings(config_file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings: defaults, then the YAML file, then LOOPWRIGHT_* variables, then `overrides`.

    Sections merge key by key; lists are replaced whole.

    Raises:
        InputError: an unreadable file, an unknown key or a bad value; it names the key and its source.
    """
    sources: dict[str, Mapping[str, Any]] = {
        str(config_file): read_yaml(config_file) if config_file else {},
        "environment variables": _environment_values(),
        "the command line": overrides or {},
    }
    values: dict[str, Any] = {}
    for source in sources.values():
        values = merge(values, source)
    try:
        return Settings(**values)
    except ValidationError as exc:
        raise _input_error(exc, sources) from exc


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` put over it, section by section."""
    both = {key: merge(base[key], over[key]) for key in over if _are_sections(base.get(key), over[key])}
    return {**base, **over, **both}


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; an empty file holds an empty one.

    Raises:
        InputError: it cannot be read, is not YAML, or is not a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InputError(f"cannot read the configuration {path}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InputError(f"{path} is not valid YAML: {exc}") from exc
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold keys and values, not a {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _environment_values() -> dict[str, Any]:
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as exc:  # a variable that should hold JSON and does not
        raise InputError(f"environment variables: {exc}: {exc.__cause__}") from exc


def _are_sections(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _input_error(error: ValidationError, sources: Mapping[str, Mapping[str, Any]]) -> InputError:
    """Return one InputError that names every bad key, where it came from, and near names for unknown ones."""
    lines, hints = [], []
    problems = error.errors()
    for problem in problems:
        location = problem["loc"]
        if any(
            len(other["loc"]) > len(location) and other["loc"][: len(location)] == location
            for other in problems
        ):
            continue  # a section is bad only because of what is wrong inside it
        key = ".".join(str(part) for part in location)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{_origin(location, sources)}: unknown key {key}")
            hints.append(_near_names(location))
        else:
            lines.append(
                f"{_origin(location, sources)}: {key}: {problem['msg']} (got {problem['input']!r:.100})"
            )
    return InputError(
        "; ".join(lines), hint="; ".join(hints) or "`loopwright fix --show-config` prints every key"
    )


def _origin(location: Sequence[str | int], sources: Mapping[str, Mapping[str, Any]]) -> str:
    return next((name for name in reversed(list(sources)) if _holds(sources[name], location)), "settings")


def _holds(values: Any, location: Sequence[str | int]) -> bool:
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _near_names(location: Sequence[str | int]) -> str:
    section: Any = Settings.model_construct()
    for part in location[:-1]:
        section = section[0] if isinstance(part, int) else getattr(section, part, None)
    known = list(type(section).model_fields) if isinstance(section, BaseModel) else []
    matches = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {matches[0]}?" if matches else f"known keys here: {', '.join(known)}"
