"""One Docker container: started with a supervisor that waits, fed through a stream, then removed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.core import SandboxRequest
from pipeline.exceptions import SandboxError
from workers.sandbox import docker_profile, supervisor, watch
from workers.sandbox.mounts import hand_over, requested
from workers.sandbox.profiles import Profile
from workers.sandbox.streams import Recorder

_STALL_SECONDS = 5
_FRAME = struct.Struct(">BxxxI")  # stream number, length
_STDERR = 2
_READ_BYTES = 1 << 16


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
class ContainerState:
    """What the engine knows of a run."""

    usage: watch.Usage = field(default_factory=watch.Usage)
    exit_code: int | None = None
    is_late: bool = False  # the engine was slow to answer, or had not yet told that the run had ended


class DockerContainer:
    """The container of one run. `call` calls the engine, `api` is its low-level client."""

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

    async def state(self, *, ended: bool) -> ContainerState:
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
        return ContainerState(usage, state["ExitCode"] if ended else None, is_late)

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
