"""What comes out of a run: output kept as head and tail, and the supervisor's report at the end of stdout.

Everything here was written by code that may be hostile; it is measured, capped and only then kept.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import re
import tarfile
import time
from collections.abc import Sequence

from pipeline.core import CapturedStream, SandboxLimits

KILL_FACTOR = 16  # a stream this many times longer than what is kept of it ends the run
_SETUP_BYTES = 64 * 1024  # nothing but the start marker belongs before the start marker
_REPORT_BYTES = 64 * 1024  # the report without its files
_TAR_BLOCKS_BYTES = 16 * 1024  # headers and padding of one collected file
# Bounded: a forged number must not become an exception or an infinity.
_EXIT_CODE = re.compile(rb"(\d{1,3})\n")
_SECONDS = re.compile(rb"\b(\d{1,6})m(\d{1,2}(?:\.\d{1,9})?)s\b")
_KILLED = re.compile(rb"^oom_kill [1-9]", re.MULTILINE)
_PEAK = re.compile(rb"^(\d{1,15})$", re.MULTILINE)


class OutputLimitExceeded(Exception):  # noqa: N818 - an outcome, not an error
    """A stream grew past what a run may print."""


class HeadTail:
    """Keeps the head and the tail of a stream within `kept_bytes`, and counts all of it."""

    def __init__(self, kept_bytes: int) -> None:
        self._head_bytes = kept_bytes // 2
        self._tail_bytes = kept_bytes - self._head_bytes
        self._kill_bytes = kept_bytes * KILL_FACTOR
        self._head = bytearray()
        self._tail = bytearray()
        self.num_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream. Raises OutputLimitExceeded when it is too long in all."""
        self.num_bytes += len(data)
        room = self._head_bytes - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._tail_bytes:  # twice: so that trimming is rare
            del self._tail[: -self._tail_bytes]
        if self.num_bytes > self._kill_bytes:
            raise OutputLimitExceeded

    def captured(self) -> CapturedStream:
        """Return what was kept."""
        tail = bytes(self._tail[-self._tail_bytes :])
        if len(self._head) + len(tail) == self.num_bytes:
            return CapturedStream(head=bytes(self._head) + tail, num_bytes=self.num_bytes)
        return CapturedStream(head=bytes(self._head), tail=tail, num_bytes=self.num_bytes)


class Recorder:
    """Takes both streams of one run: start marker, the command's output, the supervisor's report."""

    def __init__(self, nonce: str, limits: SandboxLimits, num_files: int) -> None:
        self._key = nonce.encode()
        self._start = f"{nonce} start\n".encode()
        self._end = f"{nonce} end ".encode()
        self._files = f"{nonce} files\n".encode()
        self._whole = f"{nonce} whole\n".encode()
        self._report_bytes = _REPORT_BYTES + num_files * (limits.file_bytes + _TAR_BLOCKS_BYTES)
        self._file_bytes = limits.file_bytes
        self._pending = bytearray()
        self._report: bytearray | None = None
        self.stdout = HeadTail(limits.output_bytes)
        self.stderr = HeadTail(limits.output_bytes)
        self.started_at: float | None = None  # time.monotonic() at the start marker
        self.ended_at: float | None = None  # at the end marker

    def feed_stdout(self, data: bytes) -> None:
        """Take the next piece of stdout. Raises OutputLimitExceeded."""
        if self._report is not None:
            self._feed_report(data)
            return
        self._pending += data
        if self.started_at is None:
            self._seek_start()
        if self.started_at is not None:
            self._seek_end()

    def feed_stderr(self, data: bytes) -> None:
        """Take the next piece of stderr. Raises OutputLimitExceeded."""
        self.stderr.feed(data)

    def close(self) -> None:
        """Note that no more will come, so what might have been half a marker was output."""
        if self._report is None and self.started_at is not None:
            rest, self._pending = bytes(self._pending), bytearray()
            with contextlib.suppress(OutputLimitExceeded):
                self.stdout.feed(rest)

    def _seek_start(self) -> None:
        found = self._pending.find(self._start)
        if found >= 0:
            self.started_at = time.monotonic()
            del self._pending[: found + len(self._start)]
        elif len(self._pending) > _SETUP_BYTES:
            raise OutputLimitExceeded

    def _seek_end(self) -> None:
        found = self._pending.find(self._end)
        # The marker may be cut in two by the end of this piece: hold back what could be its first part.
        done = found if found >= 0 else max(0, len(self._pending) - len(self._end) + 1)
        output = bytes(self._pending[:done])
        del self._pending[:done]
        self.stdout.feed(output)
        if found >= 0:
            self.ended_at = time.monotonic()
            self._report = bytearray()
            self._feed_report(bytes(self._pending[len(self._end) :]))

    def _feed_report(self, data: bytes) -> None:
        assert self._report is not None
        self._report += data
        if len(self._report) > self._report_bytes:
            raise OutputLimitExceeded

    @property
    def is_whole(self) -> bool:
        """Whether the report came to its end: no stream broke on its way."""
        return (self._report or b"").endswith(self._whole)

    @property
    def exit_code(self) -> int | None:
        """The command's exit code (128 + n for signal n); None when there is no report."""
        found = _EXIT_CODE.match(self._text())
        return min(int(found[1]), 255) if found else None

    @property
    def cpu_seconds(self) -> float | None:
        """User and system seconds of the command and its waited-for children, as the shell's `times` says."""
        times = [float(m) * 60 + float(s) for m, s in _SECONDS.findall(self._text())]
        return sum(times[2:4]) if len(times) >= 4 else None  # the first two are the shell's own

    @property
    def peak_memory_bytes(self) -> int | None:
        """The peak as the cgroup seen from inside says; None where none is seen."""
        peaks = _PEAK.findall(self._text().partition(b"\n")[2])
        return max(map(int, peaks), default=None)

    @property
    def out_of_memory(self) -> bool:
        """Whether the cgroup seen from inside had a process killed for its memory."""
        return _KILLED.search(self._text()) is not None

    def files(self, names: Sequence[str], signed: str = "") -> dict[str, bytes]:
        """Return the regular files among `names` that came back whole and within their limit.

        The one that must be `signed` comes without its signature, and only if that is right.
        """
        _, _, archive = bytes(self._report or b"").partition(self._files)
        found = read_files(archive, names, self._file_bytes)
        if signed in found:
            signature, _, content = found.pop(signed).partition(b"\n")
            if hmac.compare_digest(signature, hmac.new(self._key, content, "sha256").hexdigest().encode()):
                found[signed] = content
        return found

    def _text(self) -> bytes:
        return bytes(self._report or b"").partition(self._files)[0]


def read_files(archive: bytes, names: Sequence[str], max_bytes: int) -> dict[str, bytes]:
    """Return regular files of a hostile tar by exact name; links, devices, folders and long files are not."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                if member.name in names and member.type == tarfile.REGTYPE and member.size <= max_bytes:
                    content = tar.extractfile(member)
                    data = content.read(max_bytes) if content else b""
                    if len(data) == member.size:
                        found[member.name] = data
    except (tarfile.TarError, ValueError, OverflowError, EOFError):
        pass  # cut short or forged: what came before stands
    return found
