"""Kills what runs sandboxes, what plans and the Docker engine at random moments, and looks what is left.

    python -m tests.benchmarks.sandbox.kills [--kills 50] [--seed 7] [--victims docker,...]

After each kill and the reaping with which every command starts, nothing may be left; the work that is
started again must come to what undisturbed work comes to. Docker is an engine of our own. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from docker.models.containers import Container

from pipeline.owner import Owner
from tests.benchmarks.sandbox.victims import NO_ENGINE, RESULTS
from tests.integration.private_engine import PrivateEngine, private_engine
from workers.sandbox import cgroups, docker_profile
from workers.sandbox.docker_sandbox import connect
from workers.sandbox.image import DEFAULT_TAG
from workers.sandbox.reaper import reap_orphans
from workers.sandbox.supervisor import PROCESS_PREFIX

VICTIMS = ("bubblewrap", "docker", "planner", "engine")
_ROOT = Path(__file__).parents[3]
_GONE_SECONDS = 20.0  # for what is dying
_WORK_SECONDS = 300.0
_DOWN_SECONDS = 2.0  # at most, before a killed engine is started again


@dataclass
class Campaign:
    """The kills of one kind of victim."""

    victim: str
    folder: Path
    engine: PrivateEngine  # with the sandbox's image
    rng: random.Random
    num_kills: int = 0
    num_finished: int = 0  # works that came to their end
    problems: list[str] = field(default_factory=list)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _mounts: set[str] = field(default_factory=set)  # before anything was
    _containers: set[str] = field(default_factory=set)  # ids of all that were ever left

    def run(self, num_kills: int) -> None:
        """Kill so many times; then let the last work come to its end."""
        try:
            self._run(num_kills)
        finally:
            for process in self._started:
                process.kill()

    def _run(self, num_kills: int) -> None:
        self._begin("home")
        self._work("undisturbed")
        self._mounts = _mounts(self.engine)
        started = time.monotonic()
        expected = self._work("undisturbed")
        seconds = time.monotonic() - started
        disturb = self._kill_engine_during if self.victim == "engine" else self._kill_until_done
        while self.num_kills < num_kills:
            name = f"work-{self.num_finished}"
            disturb(name, num_kills, seconds)
            self.num_finished += 1
            if (found := self._results(name)) != expected:
                self.problems.append(f"{name} came to {found}")
            self._look()

    def _kill_until_done(self, name: str, num_kills: int, seconds: float) -> None:
        """Start the work again and again, and kill it each time, until it is done."""
        self._begin(name)
        while not (self.folder / name / RESULTS).exists():
            process = self._start(name)
            wait_seconds = self.rng.uniform(0, seconds) if self.num_kills < num_kills else _WORK_SECONDS
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(wait_seconds)
                if code != 0:
                    self.problems.append(f"{name} ended with {code}")
                    return
                continue
            process.kill()
            process.wait()
            self.num_kills += 1
            self._look()

    def _kill_engine_during(self, name: str, num_kills: int, seconds: float) -> None:
        """Start the work, and kill the engine below it until it is done; none begins while that is down."""
        self._begin(name)
        process = self._start(name)
        while process.poll() in (None, NO_ENGINE):
            if process.returncode == NO_ENGINE:
                process = self._start(name)
            wait_seconds = self.rng.uniform(0, seconds) if self.num_kills < num_kills else _WORK_SECONDS
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_seconds)
                continue
            self.engine.kill()
            time.sleep(self.rng.uniform(0, _DOWN_SECONDS))
            self.engine.start()
            self.num_kills += 1
            print(f"{self.victim}: {self.num_kills} kills", file=sys.stderr, flush=True)
        if process.returncode != 0:
            self.problems.append(f"{name} ended with {process.returncode}")

    def _begin(self, name: str) -> None:
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)

    def _work(self, name: str) -> object:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        self._begin(name)
        code = self._start(name).wait(_WORK_SECONDS)
        assert code == 0, f"undisturbed work ended with {code}"
        return self._results(name)

    def _results(self, name: str) -> object:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder / name / RESULTS).read_text())
        return None

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        kind = "docker" if self.victim == "engine" else self.victim
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.sandbox.victims", kind, self.folder / name],
            cwd=_ROOT,
            env={**os.environ, "TMPDIR": str(self.folder / "tmp"), **_environment(self.engine)},
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def _look(self) -> None:
        """Do what each start does, and note what is left of all that were killed."""
        self._containers |= {str(one.id) for one in _left_containers(self.engine)}
        with _environment_set({"TMPDIR": str(self.folder / "tmp"), **_environment(self.engine)}):
            asyncio.run(reap_orphans())
        give_up_at = time.monotonic() + _GONE_SECONDS
        while (left := self._left()) and time.monotonic() < give_up_at:
            time.sleep(0.2)
        self.problems += [f"after kill {self.num_kills}: {one}" for one in left]
        print(f"{self.victim}: {self.num_kills} kills, left: {left}", file=sys.stderr, flush=True)

    def _left(self) -> list[str]:
        found = [f"mount {line}" for line in _mounts(self.engine) - self._mounts]
        found += [f"temporary {path.name}" for path in (self.folder / "tmp").iterdir()]
        found += [f"shim of {name}" for name in _shims(self.engine)]
        found += [f"control group of {name}" for name in self._containers if _has_group(name)]
        pids = {process.pid for process in self._started}
        owned = [one.labels[docker_profile.OWNER_LABEL] for one in _left_containers(self.engine)]
        for name in (*owned, *_groups(), *_processes()):
            if (owner := Owner.parse(name)) and owner.pid in pids:
                found.append(name)
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, tell of each kind of victim what came of it, and return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--victims", default=",".join(VICTIMS))
    options = parser.parse_args(argv)
    victims = options.victims.split(",")
    with (
        contextlib.closing(connect()) as client,
        tempfile.TemporaryDirectory() as folder,
        private_engine(client, DEFAULT_TAG) as engine,
    ):
        campaigns = [
            Campaign(victim, Path(folder, victim), engine, random.Random(f"{options.seed} {victim}"))
            for victim in victims
        ]
        for number, campaign in enumerate(campaigns):
            campaign.run((options.kills + number) // len(victims))
    for campaign in campaigns:
        text = f"{campaign.victim}: {campaign.num_kills} kills, {campaign.num_finished} works done"
        print("\n  ".join([text, *campaign.problems]))
    return 1 if any(campaign.problems for campaign in campaigns) else 0


def _environment(engine: PrivateEngine) -> dict[str, str]:
    return {"DOCKER_HOST": engine.url}


@contextlib.contextmanager
def _environment_set(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    tempfile.tempdir = None  # read it again
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None


def _mounts(engine: PrivateEngine) -> set[str]:
    # Those of other engines come and go with the containers of others.
    lines = Path("/proc/self/mounts").read_text().splitlines()
    others = ("/overlay2/", "/docker/", "/engine-")
    return {line for line in lines if str(engine.folder) in line or not any(o in line for o in others)}


def _left_containers(engine: PrivateEngine) -> list[Container]:
    with contextlib.closing(engine.client()) as client:
        filters = {"label": docker_profile.LABEL}
        found: list[Container] = client.containers.list(all=True, filters=filters, ignore_removed=True)
        return found


def _shims(engine: PrivateEngine) -> list[str]:
    """Return the processes that still hold something of a container of the engine, of whatever state.

    An engine that is killed while it removes a container can leave an empty one, which is nobody's.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            is_shim = bool(words) and "containerd-shim" in words[0]
            if is_shim and any(str(engine.folder) in word for word in words) and process.children():
                found.append(" ".join(words))
    return found


def _has_group(container_id: str) -> bool:
    return any(Path("/sys/fs/cgroup").glob(f"*/docker/{container_id}"))


def _groups() -> list[str]:
    parents = set(cgroups.parents().values())
    return [folder.name for parent in parents for folder in parent.glob(f"{cgroups.PREFIX}*")]


def _processes() -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found += [word for word in process.cmdline() if word.startswith(PROCESS_PREFIX)]
    return found


if __name__ == "__main__":
    sys.exit(main())
