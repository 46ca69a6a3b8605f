"""What runs sandboxes, what plans and the Docker engine may be killed at any moment.

A few kills; LOOPWRIGHT_TEST_KILLS says how many of each kind. `make bench-kills` does fifty.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.benchmarks.sandbox.kills import VICTIMS, Campaign
from tests.integration.conftest import unavailable
from tests.integration.private_engine import PrivateEngine, private_engine
from workers.sandbox.docker_sandbox import DockerSandbox

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def engine(docker_engine: docker.DockerClient, docker_sandbox: DockerSandbox) -> Iterator[PrivateEngine]:
    """An engine that may be killed."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        unavailable("an engine of one's own needs dockerd and root")
    with private_engine(docker_engine, docker_sandbox.image) as engine:
        yield engine


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_leaves_nothing_behind_and_the_work_is_done_again_to_the_same_end(
    victim: str, engine: PrivateEngine, tmp_path: Path
) -> None:
    num_kills = int(os.environ.get("LOOPWRIGHT_TEST_KILLS", "2"))
    campaign = Campaign(victim, tmp_path, engine, random.Random(f"7 {victim}"))
    campaign.run(num_kills)
    assert (campaign.num_kills, campaign.problems) == (num_kills, [])
