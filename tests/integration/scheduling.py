"""Which tests share a process: those of a file, and all that start a Ray.

A Ray that is not up within 30 seconds gives up, and two at once are slow on two cores.
"""

from xdist.scheduler import LoadFileScheduling

_START_A_RAY = (
    *("test_batch_ray.py", "test_cli_ask.py", "test_cli_engine.py", "test_cluster_life.py"),
    *("test_engine_actor.py", "test_looped_refusals.py", "test_reading_workers.py"),
)


class Scheduling(LoadFileScheduling):
    """The tests of a file stay together, and those of the files above."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "ray" if file.endswith(_START_A_RAY) else file
