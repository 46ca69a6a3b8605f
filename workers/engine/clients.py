"""Which clients of an engine are still there. A killed one says nothing any more, and its drafts must end."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.exceptions import GeneratorError

TOUCH_SECONDS = 5.0  # between two signs of life
GONE_SECONDS = 60.0  # of silence, after which a client counts as dead


class Clients:
    """Remembers when each client was last heard of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen_at: dict[str, float] = {}

    def seen(self, client: str) -> None:
        """Note a sign of life, and forget those who are gone."""
        now = self._clock()
        # Replaced whole: other threads read it.
        known = {other: at for other, at in self._seen_at.items() if now - at <= GONE_SECONDS}
        self._seen_at = known | {client: now}

    def require(self, client: str) -> None:
        """Raise GeneratorError where the client has been silent for too long."""
        if self._clock() - self._seen_at.get(client, float("-inf")) > GONE_SECONDS:
            raise GeneratorError(
                f"the client was not heard of for {GONE_SECONDS:.0f} s; its drafts are aborted"
            )
