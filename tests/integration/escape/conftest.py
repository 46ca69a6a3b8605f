"""Both engines, hardened and as a negative control; and a look at the host after every test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from pipeline.core import Outcome
from pipeline.owner import this_process
from tests.integration.escape.probes import program
from tests.integration.sandbox_tools import containers_of, groups_of, layer, limits, processes, python
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox
from workers.sandbox.docker_sandbox import DockerSandbox
from workers.sandbox.profiles import HARDENED, Profile, read_profile
from workers.sandbox.supervisor import PROCESS_PREFIX

AnySandbox = DockerSandbox | BubblewrapSandbox
MakeSandbox = Callable[..., AnySandbox]  # engine, profile, num_warm
Findings = dict[str, list[str]]  # by what is refused: "refused", "got through" or "broken", and the error


class ProbesIn(Protocol):
    """Runs the probes."""

    async def __call__(self, engine: str, *, is_weak: bool) -> Findings:
        """Return what each found."""
        ...


WEAK = Path(__file__).with_name("negative_control.yaml")


@pytest.fixture(scope="session")
def make_sandbox(request: pytest.FixtureRequest) -> MakeSandbox:
    """Return what makes a sandbox of an engine with a profile."""

    def make(engine: str, profile: Profile, num_warm: int = 0) -> AnySandbox:
        if engine == "docker":
            image = request.getfixturevalue("docker_sandbox").image
            return DockerSandbox(request.getfixturevalue("docker_engine"), image, profile, num_warm=num_warm)
        return BubblewrapSandbox(profile, num_warm=num_warm)

    return make


@pytest.fixture(params=["docker", "bubblewrap"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture
def sandbox(engine: str, make_sandbox: MakeSandbox) -> AnySandbox:
    """The engine's sandbox as it ships."""
    return make_sandbox(engine, HARDENED)


@pytest.fixture(scope="session")
def probes_in(make_sandbox: MakeSandbox) -> ProbesIn:
    """Return what runs all probes at once in an engine's sandbox, the first time that it is asked.

    Weak: the negative control, in which what the profile refuses is allowed.
    """
    found: dict[tuple[str, bool], Findings] = {}

    async def run(engine: str, *, is_weak: bool) -> Findings:
        if (engine, is_weak) not in found:
            code, probes = program()
            request = python(code, "probes.json", layers=(layer({"probes.json": probes}),), limits=limits())
            result = await make_sandbox(engine, read_profile(WEAK) if is_weak else HARDENED).run(request)
            assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0), result
            found[engine, is_weak] = json.loads(result.stdout.text())
        return found[engine, is_weak]

    return run


@pytest.fixture
async def findings(engine: str, probes_in: ProbesIn) -> Findings:
    """What each probe found in the hardened sandbox."""
    return await probes_in(engine, is_weak=False)


@pytest.fixture(autouse=True)
def _host_is_clean_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _state_of_the_host(request)
    yield
    assert _state_of_the_host(request) == before


def _state_of_the_host(request: pytest.FixtureRequest) -> dict[str, object]:
    """Return what an attack could have left: containers, groups, processes, mounts, settings, files."""
    owner = str(this_process())
    containers: list[str] = []
    if "docker" in request.node.name:
        containers = containers_of(request.getfixturevalue("docker_engine"), owner)
    settings = ("kernel/core_pattern", "kernel/hostname", "net/ipv4/ip_forward")
    return {
        "containers": containers,
        "control groups": groups_of(owner),
        "processes": processes(f"{PROCESS_PREFIX}{owner}"),
        # Those of the engine come and go with the containers of other tests beside this one.
        "mounts": [
            line for line in Path("/proc/self/mounts").read_text().splitlines() if "docker" not in line
        ],
        "settings": [Path("/proc/sys", name).read_text() for name in settings],
        "files": [p for place in ("/", "/tmp", "/usr", "/etc") for p in os.listdir(place) if "evil" in p],
    }
