"""The Docker sandbox: one hardened container per run, removed however the run ends.

Not covered: the kernel is shared (give the engine a runtime such as runsc for more); CPU seconds are limited
per process, and in all only through the wall clock and the CPU share; the engine must be on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.core import Outcome, SandboxRequest, SandboxResult
from pipeline.exceptions import EnvironmentBrokenError, SandboxError
from workers.sandbox import docker_profile, supervisor, watch
from workers.sandbox.mounts import hand_over, image_of, requested
from workers.sandbox.pool import WarmPool
from workers.sandbox.profiles import HARDENED, Profile
from workers.sandbox.streams import Recorder

if TYPE_CHECKING:
    import docker

_Value = TypeVar("_Value")
_API_TIMEOUT_SECONDS = 60
_PING_SECONDS = 10  # an engine that works answers in milliseconds
_STALL_SECONDS = 5
_NUM_API_THREADS = 8
_FRAME = struct.Struct(">BxxxI")  # stream number, length
_STDERR = 2
_READ_BYTES = 1 << 16


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
            state = _State() if is_told else await run.state(ended=hit is None)
            ended = hit is None
        finally:
            await asyncio.shield(self._pool.give_back(run) if ended else run.end())
        found = watch.result(request, recorder, hit, state.usage, state.exit_code)
        if hit is Outcome.TIMED_OUT and state.is_late:
            raise watch.DoubtfulError("the Docker engine held up the run", found)
        return found

    async def _started(self, request: SandboxRequest) -> _Run:
        run = _Run(self._call, self._client.api, f"loopwright-{uuid.uuid4().hex}")
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


@contextlib.contextmanager
def told_as_ours() -> Iterator[None]:
    """Turn what the client library raises into our errors.

    Raises:
        SandboxError: the engine refused, or failed.
        NoAnswerError: it did not answer.
    """
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except DockerException as error:
        raise SandboxError(f"the Docker engine failed: {error}") from error
    except (RequestException, OSError) as error:
        raise watch.NoAnswerError(f"the Docker engine does not answer: {error}") from error


@dataclass(frozen=True, slots=True)
class _State:
    """What the engine knows of a run."""

    usage: watch.Usage = field(default_factory=watch.Usage)
    exit_code: int | None = None
    is_late: bool = False  # the engine was slow to answer, or had not yet told that the run had ended


class _Run:
    """One container."""

    def __init__(self, call: Callable[..., Any], api: Any, name: str) -> None:
        self._call = call
        self._api = api
        self._name = name
        self._socket: socket.socket | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the supervisor waits for its script: it has said nothing, and not hung up."""
        if self._socket is None:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False

    async def start(self, request: SandboxRequest, profile: Profile, image: str) -> None:
        """Create, attach and start the container; its supervisor waits for its script."""
        try:
            hand_over(requested(request), profile.uid)
            deadline = int(time.time()) + docker_profile.lifetime_seconds(request.limits)
            body = docker_profile.container(request, profile, image, deadline)
            await self._call(self._api.create_container_from_config, body, self._name)
            self._socket = await self._call(self._attach)
            await self._call(self._api.start, self._name)
        except BaseException:
            await asyncio.shield(self.end())
            raise

    async def pump(self, script: supervisor.Script, recorder: Recorder) -> None:
        """Feed the supervisor, and the recorder from both streams, until they end."""
        assert self._socket is not None
        await watch.together(_feed(self._socket, script), _drain(self._socket, recorder))

    async def state(self, *, ended: bool) -> _State:
        """Return what the engine knows of the run; waits for the exit of one that has ended by itself."""
        if ended:
            await self._call(self._api.wait, self._name, timeout=self._api.timeout)
        asked_at = time.monotonic()
        state = (await self._call(self._api.inspect_container, self._name))["State"]
        is_late = not ended and (not state["Running"] or time.monotonic() - asked_at > _STALL_SECONDS)
        usage = watch.Usage()
        if not ended:
            with contextlib.suppress(SandboxError):  # only measured: no reason to do the run again
                usage = _usage(await self._call(self._api.stats, self._name, stream=False, one_shot=True))
        usage = watch.Usage(usage.cpu_seconds, usage.peak_memory_bytes, bool(state["OOMKilled"]))
        return _State(usage, state["ExitCode"] if ended else None, is_late)

    async def end(self) -> None:
        """Kill and remove the container, if it is there."""
        from docker.errors import NotFound

        if self._socket:
            # Not close alone: the client library holds the same connection, and the engine cannot end a
            # container while it still has output for one that nobody reads.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None
        try:
            await self._call(self._api.remove_container, self._name, force=True, v=True)
        except SandboxError as error:
            if not isinstance(error.__cause__, NotFound):
                raise

    def _attach(self) -> socket.socket:
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        wrapped = self._api.attach_socket(self._name, params)
        plain = getattr(wrapped, "_sock", wrapped)
        if not isinstance(plain, socket.socket) or isinstance(plain, ssl.SSLSocket):
            raise SandboxError("the sandbox needs an engine on this machine, not one behind TLS or ssh")
        # The wrapper would close the socket when it is collected.
        own = plain.dup()
        wrapped.close()
        own.setblocking(False)
        return own


def _usage(stats: dict[str, Any]) -> watch.Usage:
    cpu = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
    peak = stats.get("memory_stats", {}).get("max_usage")  # control groups version 1 only
    return watch.Usage(cpu / 1e9 if cpu else None, peak or None)


async def _feed(stream: socket.socket, script: supervisor.Script) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the setup failed: stderr says why
        async for piece in script.stdin():
            await loop.sock_sendall(stream, piece)


async def _drain(stream: socket.socket, recorder: Recorder) -> None:
    """Take the engine's frames apart: a header with stream number and length, then the bytes."""
    loop = asyncio.get_running_loop()
    take, missing, header = recorder.feed_stdout, 0, b""
    while data := await loop.sock_recv(stream, _READ_BYTES):
        while data:
            if missing:
                take(data[:missing])
                data, missing = data[missing:], max(0, missing - len(data))
                continue
            wanted = _FRAME.size - len(header)
            header, data = header + data[:wanted], data[wanted:]
            if len(header) == _FRAME.size:
                number, missing = _FRAME.unpack(header)
                take = recorder.feed_stderr if number == _STDERR else recorder.feed_stdout
                header = b""
