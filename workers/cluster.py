"""Where the engine runs: found warm, or started for one run and ended with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workers.engine.settings import EngineSettings
from workers.generator import RayGenerator

Notify = Callable[[str], None]  # receives one line on what is being waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Where and how many engines run."""

    engine: EngineSettings
    address: str | None = None  # of a Ray cluster ("auto", "host:port"); None: this machine alone
    num_replicas: int = 1
    start_timeout_seconds: float = 600.0
    idle_timeout_seconds: float = 1800.0  # after which a warm engine ends by itself


def connect_or_start(settings: ClusterSettings, notify: Notify) -> RayGenerator:
    """Return a generator over the warm engine with these settings, or over one started for this process.

    Its `close` ends what was started here; so does the end of this process, however it comes.

    Raises:
        EnvironmentBrokenError: Ray or vLLM is not installed, or Ray does not start.
        ModelUnavailableError: there is no checkpoint at `settings.engine.model_path`.
        GeneratorError: the engine did not start in time.
    """
    raise NotImplementedError
