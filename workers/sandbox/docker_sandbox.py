"""The Docker sandbox: one hardened container per run, removed however the run ends.

Not covered: the kernel is shared (give the engine a runtime such as runsc for more); CPU seconds are limited
per process, and in all only through the wall clock and the CPU share; the engine must be on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.core import Outcome, SandboxRequest, SandboxResult
from pipeline.exceptions import EnvironmentBrokenError
from workers.sandbox import supervisor, watch
from workers.sandbox.docker_container import ContainerState, DockerContainer, told_as_ours
from workers.sandbox.mounts import image_of
from workers.sandbox.pool import WarmPool
from workers.sandbox.profiles import HARDENED, Profile
from workers.sandbox.streams import Recorder

if TYPE_CHECKING:
    import docker

_Value = TypeVar("_Value")
_API_TIMEOUT_SECONDS = 60
_PING_SECONDS = 10  # an engine that works answers in milliseconds
_NUM_API_THREADS = 8


def connect(timeout_seconds: int = _API_TIMEOUT_SECONDS) -> docker.DockerClient:
    """Return a client of the engine that the environment names, or of the local one.

    Raises:
        EnvironmentBrokenError: no engine answers.
    """
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=timeout_seconds, max_pool_size=2 * _NUM_API_THREADS)
        client.ping()
    except (DockerException, OSError) as error:
        raise EnvironmentBrokenError(
            f"no Docker engine answers: {error}",
            hint="start one (systemctl start docker, or dockerd), or use --sandbox bubblewrap",
        ) from error
    return client


class DockerSandbox:
    """Runs each request in a container of its own."""

    name = "docker"

    def __init__(
        self, client: docker.DockerClient, image: str, profile: Profile = HARDENED, *, num_warm: int = 0
    ) -> None:
        """Use `image`, best named by its id, so that no later build changes what runs.

        `num_warm`: containers that are kept up and wait.
        """
        self._client = client
        self._profile = profile
        self.image = image
        self._threads = ThreadPoolExecutor(_NUM_API_THREADS, thread_name_prefix="docker")
        self._pinging = ThreadPoolExecutor(1, thread_name_prefix="docker-ping")
        self._pool = WarmPool(self._started, num_warm)

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Run the request to its end; see `pipeline.protocols.Sandbox`.

        Raises:
            InputError: the request itself is not usable.
        """
        return await watch.with_retries(lambda: self._run_once(request))

    @property
    def num_spare(self) -> int:
        """How many sandboxes are up and wait for a run."""
        return self._pool.num_spare

    async def close(self) -> None:
        """End the sandboxes that wait."""
        await self._pool.close()

    def weaknesses(self) -> list[str]:
        """Return what this engine cannot enforce, one sentence each."""
        info = self._client.info()
        found = ["CPU seconds are limited per process; all together only by the wall clock and the CPU share"]
        options = " ".join(info.get("SecurityOptions") or ())
        checks = {
            "the engine runs without seccomp": "seccomp" in options,
            "root in a container would be root on the host: no user namespaces": "userns" in options
            or "rootless" in options,
            "memory is not limited": info.get("MemoryLimit"),
            "swap is not limited": info.get("SwapLimit"),
            "the number of processes is not limited": info.get("PidsLimit"),
            "the number of CPUs is not limited": info.get("CpuCfsQuota"),
        }
        return found + [weakness for weakness, holds in checks.items() if not holds]

    async def _run_once(self, request: SandboxRequest) -> SandboxResult:
        script = supervisor.script(request)
        recorder = Recorder(script.nonce, request.limits, len(request.collect))
        await self._require_answer()
        run = await self._pool.lease(request)
        ended = False
        try:
            hit = await watch.watch(run.pump(script, recorder), recorder, request.limits, None)
            is_told = hit is None and recorder.exit_code is not None  # no need to ask the engine
            if hit is not None:
                await self._require_answer()
            state = ContainerState() if is_told else await run.state(ended=hit is None)
            ended = hit is None
        finally:
            await asyncio.shield(self._pool.give_back(run) if ended else run.end())
        found = watch.result(request, recorder, hit, state.usage, state.exit_code)
        if hit is Outcome.TIMED_OUT and state.is_late:
            raise watch.DoubtfulError("the Docker engine held up the run", found)
        return found

    async def _started(self, request: SandboxRequest) -> DockerContainer:
        run = DockerContainer(self._call, self._client.api, f"loopwright-{uuid.uuid4().hex}")
        await run.start(request, self._profile, image_of(request) or self.image)
        return run

    async def _require_answer(self) -> None:
        """Raise unless the engine answers: any other call would wait for its whole timeout.

        Raises:
            NoAnswerError: it is down, or it hangs.
        """
        # In a thread of its own: it must not wait behind calls that are merely slow.
        ping = asyncio.get_running_loop().run_in_executor(self._pinging, self._client.ping)
        ping.add_done_callback(lambda done: done.cancelled() or done.exception())
        with told_as_ours():
            done, _ = await asyncio.wait({ping}, timeout=_PING_SECONDS)
            if not done:
                raise TimeoutError(f"not within {_PING_SECONDS} seconds")
            ping.result()

    async def _call(self, function: Callable[..., _Value], *args: Any, **kwargs: Any) -> _Value:
        """Call the engine in a thread. A cancelled call still runs to its end before this returns."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))
        try:
            with told_as_ours():
                return await asyncio.shield(future)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):  # the cancellation is what matters now
                await future
            raise
