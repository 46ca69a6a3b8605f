"""Where loopwright keeps what outlives a command: models, runs, environments, clones, engine, readings."""

from __future__ import annotations

from pathlib import Path


def home_root() -> Path:
    """Return LOOPWRIGHT_HOME, or the platform's folder for a user's data. It need not exist yet."""
    from model.provision.store import store_root  # the one place that knows

    return store_root().parent


def runs_root() -> Path:
    """Return the folder that holds one folder per run."""
    return home_root() / "runs"


def environments_root() -> Path:
    """Return the folder of prepared environments."""
    return home_root() / "environments"


def clones_root() -> Path:
    """Return the folder of cached clones."""
    return home_root() / "clones"


def engine_root() -> Path:
    """Return the folder of the warm engine's state, log and token."""
    return home_root() / "engine"


def outcomes_path() -> Path:
    """Return the file of past rounds that the escalation policy learns from."""
    return home_root() / "outcomes.jsonl"


def readings_root() -> Path:
    """Return the folder that holds one folder per question that was asked."""
    return home_root() / "readings"


def memo_root() -> Path:
    """Return the folder of what models answered to questions, by content."""
    return home_root() / "memo"


def parts_path() -> Path:
    """Return the file of parsed sources, by content."""
    return home_root() / "parts.sqlite"


def probes_path() -> Path:
    """Return the file of what probed models can do."""
    return home_root() / "probes.json"


def scores_path() -> Path:
    """Return the file of what models judged of pieces of sources, by content."""
    return home_root() / "scores.sqlite"
