"""One kernel: a long run in the sandbox, and the socket over which it is spoken to.

The folder that is mounted into the sandbox holds all that is ours (program, token, data, socket), so that no
file of a repository can lie in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.context.rlm.messages import MAX_QUESTIONS, KernelError, Message, Ready, line_of, read_message
from pipeline.core import Mount, Outcome, SandboxLimits, SandboxRequest, SandboxResult
from pipeline.exceptions import SandboxError
from pipeline.owner import owned_folder
from pipeline.protocols import Sandbox

MAX_LINE_BYTES = 32 << 20  # room for a snapshot and an answer, however they are written
MAX_ANSWER_CHARS = 1_000_000
MAX_SNAPSHOT_BYTES = 8 << 20
_START_SECONDS = 120.0  # for the sandbox, and for reading the data
_GREETING_SECONDS = 10.0
_OBITUARY_SECONDS = 3.0  # until the sandbox has said how a kernel ended
_TARGET = "/loopwright"
_SPARE_DISK_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a REPL is about."""

    question: str
    context: str | Sequence[str] = ""
    repository: bytes | None = None  # a tar stream


class Link:
    """The connection to a kernel that runs."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        run: asyncio.Future[SandboxResult],
    ) -> None:
        self._reader, self._writer, self._run = reader, writer, run

    async def send(self, message: dict[str, object]) -> None:
        """Send a message.

        Raises:
            KernelError: the kernel is gone.
        """
        try:
            self._writer.write(line_of(message))
            await self._writer.drain()
        except OSError as exc:
            raise await self._death() from exc

    async def receive(self, timeout_seconds: float) -> Message:
        """Return the kernel's next message.

        Raises:
            KernelError: it is gone, says nothing in that time, or sent what is no message.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                line = await self._reader.readuntil(b"\n")
        except TimeoutError as exc:
            raise KernelError("timed_out", f"no end after {timeout_seconds:.0f} seconds") from exc
        except (asyncio.IncompleteReadError, OSError) as exc:  # also where it exited with code 0
            raise await self._death() from exc
        except asyncio.LimitOverrunError as exc:
            raise KernelError("spoke_nonsense", f"a message of over {MAX_LINE_BYTES} bytes") from exc
        return read_message(line)

    async def _death(self) -> KernelError:
        """Return what is said of a kernel that is gone: with the limit that it has hit, if it was one."""
        await asyncio.wait({self._run}, timeout=_OBITUARY_SECONDS)
        is_told = self._run.done() and not self._run.cancelled() and not self._run.exception()
        outcome = self._run.result().outcome if is_told else Outcome.EXITED
        why = "" if outcome is Outcome.EXITED else f": {outcome.replace('_', ' ')}"
        return KernelError("died", f"the REPL's process ended{why}")


@contextlib.asynccontextmanager
async def kernel(
    sandbox: Sandbox, inputs: Inputs, limits: SandboxLimits, output_chars: int
) -> AsyncIterator[Link]:
    """Run a kernel for as long as the context lasts.

    Raises:
        SandboxError: the sandbox did not start, or no kernel in it.
    """
    token = secrets.token_hex(32)
    with owned_folder("rlm") as private:  # only we may enter it; what is mounted is open to the sandbox's uid
        folder = private / "repl"
        await asyncio.to_thread(_fill, folder, inputs, token, output_chars)
        gate, listening = _Gate(token), _listening(folder)
        run = asyncio.ensure_future(sandbox.run(_request(folder, inputs, limits)))
        server = await asyncio.start_unix_server(gate.admit, sock=listening, limit=MAX_LINE_BYTES)
        try:
            yield await _connected(gate, run)
        finally:
            run.cancel()  # which kills it
            await asyncio.gather(run, return_exceptions=True)
            server.close()
            gate.close()


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Gate:
    """Lets in the one peer that knows the token, and no other after it."""

    def __init__(self, token: str) -> None:
        self.streams: asyncio.Future[_Streams] = asyncio.get_running_loop().create_future()
        self._token = token.encode() + b"\n"

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection, or close it."""
        said = b""
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, OSError):
            async with asyncio.timeout(_GREETING_SECONDS):
                said = await reader.readexactly(len(self._token))
        if hmac.compare_digest(said, self._token) and not self.streams.done():
            self.streams.set_result((reader, writer))
        else:
            writer.close()

    def close(self) -> None:
        """Close the connection."""
        if self.streams.done():
            self.streams.result()[1].close()


async def _connected(gate: _Gate, run: asyncio.Future[SandboxResult]) -> Link:
    either: set[asyncio.Future[Any]] = {gate.streams, run}
    await asyncio.wait(either, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if not gate.streams.done():
        raise SandboxError(f"the REPL did not start: {_reason(run)}")
    link = Link(*gate.streams.result(), run)
    try:
        first = await link.receive(_START_SECONDS)
    except KernelError as exc:
        raise SandboxError(f"the REPL did not start: {exc}") from exc
    if not isinstance(first, Ready):
        raise SandboxError("the REPL did not start: it sent something else than that it is ready")
    return link


def _reason(run: asyncio.Future[SandboxResult]) -> str:
    if not run.done():
        return f"not within {_START_SECONDS:.0f} seconds"
    result = run.result()  # an InputError is the caller's
    said = (result.stderr.text() or result.stdout.text()).strip()[-1000:]
    return f"{result.outcome}: {result.error or said or f'exit code {result.exit_code}'}"


def _request(folder: Path, inputs: Inputs, limits: SandboxLimits) -> SandboxRequest:
    tar = inputs.repository or b""
    room = {  # what is on its disk is in its memory, too
        "disk_bytes": max(limits.disk_bytes, len(tar) + _SPARE_DISK_BYTES),
        "memory_bytes": limits.memory_bytes + len(tar),
    }
    return SandboxRequest(
        argv=("python3", "-I", f"{_TARGET}/kernel.py"),
        layers=(tar,) if tar else (),
        mounts=(Mount(source=str(folder), target=_TARGET),),
        limits=limits.model_copy(update=room),
    )


def _fill(folder: Path, inputs: Inputs, token: str, output_chars: int) -> None:
    session = {
        "token": token,
        "has_repository": inputs.repository is not None,
        "limits": {
            "output_chars": output_chars,
            "answer_chars": MAX_ANSWER_CHARS,
            "snapshot_bytes": MAX_SNAPSHOT_BYTES,
            "line_bytes": MAX_LINE_BYTES,
            "num_questions": MAX_QUESTIONS,
        },
    }
    context = inputs.context if isinstance(inputs.context, str) else list(inputs.context)
    data = {"question": inputs.question, "context": context}
    folder.mkdir()
    folder.chmod(0o755)
    _write(folder / "kernel.py", _program())
    _write(folder / "session.json", json.dumps(session).encode())
    _write(folder / "data.json", json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)


def _listening(folder: Path) -> socket.socket:
    """Return a socket in the folder. By way of a descriptor, since the path of one may not be long."""
    made = socket.socket(socket.AF_UNIX)
    directory = os.open(folder, os.O_PATH)
    try:
        made.bind(f"/proc/self/fd/{directory}/socket")
        (folder / "socket").chmod(0o666)
        made.listen()
    finally:
        os.close(directory)
    return made


@cache
def _program() -> bytes:
    return Path(__file__).with_name("kernel.py").read_bytes()
