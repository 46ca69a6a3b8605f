"""A Docker engine beside the machine's own, which a test may kill, stop and fill."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil

from workers.sandbox import docker_profile

_WAIT_SECONDS = 60
_DISK_BYTES = 1 << 30


class PrivateEngine:
    """One dockerd on a disk of its own, in memory. Needs root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # its path must be short: it holds the socket
        self.data = folder / "data"
        self.url = f"unix://{folder}/sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, anew after a kill, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--host", self.url, "--data-root", self.data),
                    *("--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid"),
                    *("--bridge=none", "--iptables=false"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        give_up_at = time.monotonic() + _WAIT_SECONDS
        while not self.answers():
            if time.monotonic() > give_up_at or self._process.poll() is not None:
                raise AssertionError(f"dockerd did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)

    def client(self, timeout_seconds: int = 60) -> docker.DockerClient:
        """Return a client of it."""
        return docker.DockerClient(self.url, timeout=timeout_seconds)

    def answers(self) -> bool:
        """Whether it answers now."""
        try:
            with contextlib.closing(self.client(timeout_seconds=5)) as client:
                return bool(client.ping())
        except (docker.errors.DockerException, OSError):
            return False

    def kill(self) -> None:
        """Kill it as it stands; its containers go on without it."""
        assert self._process is not None
        if self._process.poll() is not None:
            return
        below = psutil.Process(self._process.pid).children()  # containerd, which dies with it in a moment
        self._process.kill()
        self._process.wait()
        psutil.wait_procs(below, timeout=_WAIT_SECONDS)

    def hang(self) -> None:
        """Let it accept connections and answer none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the hanging."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """End it and all that it runs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        with contextlib.closing(self.client()) as client:
            for container in client.containers.list(all=True, filters={"label": docker_profile.LABEL}):
                container.remove(force=True)
        self._process.terminate()
        self._process.wait(timeout=_WAIT_SECONDS)


@contextlib.contextmanager
def private_engine(images: docker.DockerClient, image: str) -> Iterator[PrivateEngine]:
    """Have an engine of one's own, with this image of another one's."""
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    engine = PrivateEngine(folder)
    engine.data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", engine.data], check=True)
    try:
        engine.start()
        load_image(images, image, engine)
        yield engine
        engine.end()
    finally:
        _end_processes(folder)
        for mount in sorted(_mounts_below(folder), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def load_image(images: docker.DockerClient, image: str, engine: PrivateEngine) -> None:
    """Copy an image from one engine to the other; it keeps its id and its tag."""
    with tempfile.TemporaryFile() as file, contextlib.closing(engine.client()) as client:
        for piece in images.images.get(image).save(named=True):
            file.write(piece)
        file.seek(0)
        client.images.load(file)


def _end_processes(folder: Path) -> None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()) and process.pid != os.getpid():
                process.kill()


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [place for place in (line.split()[1] for line in lines) if place.startswith(f"{folder}/")]
