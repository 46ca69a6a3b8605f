"""Where loopwright keeps what outlives a command: runs, models, environments, clones."""

from __future__ import annotations

import os
from pathlib import Path


def home_root() -> Path:
    """Return LOOPWRIGHT_HOME, or the platform's folder for a user's data. It need not exist yet."""
    chosen = os.environ.get("LOOPWRIGHT_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("loopwright", appauthor=False)


def runs_root() -> Path:
    """Return the folder that holds one folder per run."""
    return home_root() / "runs"


def environments_root() -> Path:
    """Return the folder of prepared environments."""
    return home_root() / "environments"


def clones_root() -> Path:
    """Return the folder of cached clones."""
    return home_root() / "clones"
