"""For every tier: what the place that the tests are started from must not change."""

import signal

from hypothesis import settings

# A slow machine is no failure: no example has a deadline.
settings.register_profile("loopwright", deadline=None)
settings.load_profile("loopwright")


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, also where the tests themselves were started in the background.

    A shell without job control starts background commands with SIGINT ignored, and children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
