"""Why a model cannot be served, from the process that finds out to the one that started it.

vLLM's engine has a process of its own; who starts it only hears that it failed, and to see a log for why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from model.exceptions import CheckpointError, ModelError

_VARIABLE = "LOOPWRIGHT_FAILURE_FILE"


@contextmanager
def failure_noted() -> Iterator[None]:
    """Note an error of ours for whoever started the engine, and let it pass."""
    try:
        yield
    except ModelError as error:
        if path := os.environ.get(_VARIABLE):
            Path(path).write_text(str(error), "utf-8")
        raise


@contextmanager
def failure_told() -> Iterator[None]:
    """Start an engine within this: what was noted is raised in the place of vLLM's own error.

    Raises:
        CheckpointError: with the reason why the model cannot be served.
    """
    with TemporaryDirectory(prefix="loopwright-failure-") as folder:
        path = Path(folder) / "reason"
        os.environ[_VARIABLE] = str(path)
        try:
            yield
        except Exception as error:
            if path.exists():
                raise CheckpointError(path.read_text("utf-8")) from error
            raise
        finally:
            del os.environ[_VARIABLE]
