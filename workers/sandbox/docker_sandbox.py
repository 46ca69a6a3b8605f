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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.core import SandboxRequest, SandboxResult
from pipeline.exceptions import EnvironmentBrokenError, SandboxError
from workers.sandbox import docker_profile as profile
from workers.sandbox import supervisor, watch
from workers.sandbox.mounts import hand_over, requested
from workers.sandbox.owner import Owner
from workers.sandbox.streams import Recorder

if TYPE_CHECKING:
    import docker

_Value = TypeVar("_Value")
_API_TIMEOUT_SECONDS = 60
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

    def __init__(self, client: docker.DockerClient, image: str) -> None:
        """Use `image`, best named by its id, so that no later build changes what runs."""
        self._client = client
        self.image = image
        self._threads = ThreadPoolExecutor(_NUM_API_THREADS, thread_name_prefix="docker")

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Run the request to its end; see `pipeline.protocols.Sandbox`.

        Raises:
            InputError: the request itself is not usable.
        """
        return await watch.with_retries(lambda: self._run_once(request))

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
        recorder = Recorder(script.nonce, request.limits.output_bytes, len(request.collect))
        run = _Run(self._call, self._client.api, f"loopwright-{uuid.uuid4().hex}")
        try:
            stream = await run.start(request, script, self.image)
            hit = await watch.watch(_pump(stream, script, recorder), recorder, request.limits, None)
            usage, exit_code = await run.state(ended=hit is None)
        finally:
            await asyncio.shield(run.end())
        return watch.result(request, recorder, hit, usage, exit_code)

    async def _call(self, function: Callable[..., _Value], *args: Any, **kwargs: Any) -> _Value:
        """Call the engine in a thread. A cancelled call still runs to its end before this returns."""
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):  # the cancellation is what matters now
                await future
            raise
        except (DockerException, RequestException, OSError) as error:
            raise SandboxError(f"the Docker engine failed: {error}") from error


class _Run:
    """One container."""

    def __init__(self, call: Callable[..., Any], api: Any, name: str) -> None:
        self._call = call
        self._api = api
        self._name = name
        self._socket: socket.socket | None = None

    async def start(self, request: SandboxRequest, script: supervisor.Script, image: str) -> socket.socket:
        """Create, attach and start the container; return the stream to and from it."""
        hand_over(requested(request))
        deadline = int(time.time()) + profile.lifetime_seconds(request.limits)
        body = profile.container(request, script, image, deadline)
        await self._call(self._api.create_container_from_config, body, self._name)
        self._socket = await self._call(self._attach)
        await self._call(self._api.start, self._name)
        assert self._socket is not None
        return self._socket

    async def state(self, *, ended: bool) -> tuple[watch.Usage, int | None]:
        """Return what the engine knows of the run; waits for the exit of one that has ended by itself."""
        usage = watch.Usage()
        if ended:
            await self._call(self._api.wait, self._name, timeout=_API_TIMEOUT_SECONDS)
        else:
            with contextlib.suppress(SandboxError):  # only measured: no reason to do the run again
                usage = _usage(await self._call(self._api.stats, self._name, stream=False, one_shot=True))
        state = (await self._call(self._api.inspect_container, self._name))["State"]
        usage = watch.Usage(usage.cpu_seconds, usage.peak_memory_bytes, bool(state["OOMKilled"]))
        return usage, state["ExitCode"] if ended else None

    async def end(self) -> None:
        """Kill and remove the container, if it came to be."""
        from docker.errors import NotFound

        if self._socket:
            # Not close alone: the client library holds the same connection, and the engine cannot end a
            # container while it still has output for one that nobody reads.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
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


async def reap(client: docker.DockerClient) -> int:
    """Remove the containers of dead owners, and those long past their deadline; return how many."""
    return await asyncio.to_thread(_reap, client)


def _reap(client: docker.DockerClient) -> int:
    from docker.errors import APIError

    num_removed = 0
    for container in client.containers.list(all=True, filters={"label": profile.LABEL}, ignore_removed=True):
        owner = Owner.parse(container.labels.get(profile.OWNER_LABEL, ""))
        overdue = time.time() > int(container.labels.get(profile.DEADLINE_LABEL, "0")) + 60
        if overdue or (owner and owner.is_dead):
            with contextlib.suppress(APIError):  # another process reaps it, too
                container.remove(force=True, v=True)
                num_removed += 1
    return num_removed


def _usage(stats: dict[str, Any]) -> watch.Usage:
    cpu = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
    peak = stats.get("memory_stats", {}).get("max_usage")  # control groups version 1 only
    return watch.Usage(cpu / 1e9 if cpu else None, peak or None)


async def _pump(stream: socket.socket, script: supervisor.Script, recorder: Recorder) -> None:
    await watch.together(_feed(stream, script), _drain(stream, recorder))


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
