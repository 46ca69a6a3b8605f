"""What comes out of a run, as it is cut, kept, and refused."""

from __future__ import annotations

import hmac
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import SandboxLimits
from workers.sandbox.streams import KILL_FACTOR, HeadTail, OutputLimitExceeded, Recorder, read_files

NONCE = "0123456789abcdef"
FILES = f"{NONCE} files\n".encode()


def archive(*members: tuple[str, bytes, bytes]) -> bytes:
    """Return a tar of (name, type, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), "/etc/passwd"
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def recorder() -> Recorder:
    return Recorder(NONCE, SandboxLimits(output_bytes=1024, file_bytes=1024), num_files=1)


@given(st.lists(st.binary(max_size=50)), st.integers(min_value=2, max_value=64))
def test_head_and_tail_are_the_ends_of_the_stream_however_it_arrives(pieces: list[bytes], kept: int) -> None:
    stream, whole = HeadTail(kept), b"".join(pieces)[: kept * KILL_FACTOR]
    for position in range(0, len(whole), 7):
        stream.feed(whole[position : position + 7])
    captured = stream.captured()
    assert captured.num_bytes == len(whole)
    assert whole.startswith(captured.head)
    assert whole.endswith(captured.tail)
    assert len(captured.head) + len(captured.tail) == min(len(whole), kept)


def test_a_stream_that_does_not_end_is_refused_after_a_multiple_of_what_is_kept() -> None:
    stream = HeadTail(10)
    stream.feed(b"x" * 10 * KILL_FACTOR)
    with pytest.raises(OutputLimitExceeded):
        stream.feed(b"x")
    assert stream.captured().num_bytes == 10 * KILL_FACTOR + 1


STREAM = (
    f"setup noise{NONCE} start\nout{NONCE} en put{NONCE} end 3\n".encode()
    + b"0m0.00s 0m0.01s\n1m1.50s 0m0.25s\n4096\n8192\n"
    + FILES
    + archive(("report", tarfile.REGTYPE, b"content"))
    + f"{NONCE} whole\n".encode()
)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 31, 4096, 1 << 20])
def test_markers_are_found_wherever_the_stream_is_cut(size: int) -> None:
    found = recorder()
    for position in range(0, len(STREAM), size):
        found.feed_stdout(STREAM[position : position + size])
    found.close()
    assert found.stdout.captured().head == f"out{NONCE} en put".encode()
    assert (found.exit_code, found.cpu_seconds, found.peak_memory_bytes) == (3, 61.75, 8192)
    assert found.files(("report",)) == {"report": b"content"}
    assert found.is_whole


def test_a_report_that_was_cut_short_is_not_whole() -> None:
    found = recorder()
    found.feed_stdout(STREAM[:-1])
    found.close()
    assert (found.exit_code, found.is_whole) == (3, False)


def test_output_that_only_looks_like_a_marker_is_kept_when_the_stream_ends() -> None:
    found = recorder()
    found.feed_stdout(f"{NONCE} start\nhalf {NONCE} e".encode())
    found.close()
    assert found.stdout.captured().head == f"half {NONCE} e".encode()
    assert found.exit_code is None


def test_a_setup_that_prints_without_end_is_refused() -> None:
    found = recorder()
    with pytest.raises(OutputLimitExceeded):
        found.feed_stdout(b"x" * 1_000_000)


def test_a_report_that_does_not_end_is_refused() -> None:
    found = recorder()
    found.feed_stdout(f"{NONCE} start\n{NONCE} end 0\n".encode())
    with pytest.raises(OutputLimitExceeded):
        found.feed_stdout(b"\0" * 1_000_000)


@pytest.mark.parametrize(
    "forged",
    [b"", b"x", b"-1\n", b"999999999999999999999\n", b"\xff\n", b"1" * 9000 + b"\n", b"x\n9m9m9.9.9s" * 4],
)
def test_a_forged_report_raises_nothing(forged: bytes) -> None:
    found = recorder()
    found.feed_stdout(f"{NONCE} start\n{NONCE} end ".encode() + forged + FILES + b"no tar")
    found.close()
    assert found.exit_code is None or 0 <= found.exit_code <= 255
    assert (found.cpu_seconds, found.peak_memory_bytes) == (None, None)
    assert found.files(("report",)) == {}


def signed_with(key: str) -> bytes:
    return hmac.new(key.encode(), b"said", "sha256").hexdigest().encode() + b"\nsaid"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (signed_with(NONCE), {"report": b"said"}),
        (signed_with("another key"), {}),
        (signed_with(NONCE) + b" more", {}),
        (b"said", {}),
        (b"", {}),
    ],
)
def test_a_file_that_must_be_signed_comes_back_only_with_its_signature(
    content: bytes, expected: dict[str, bytes]
) -> None:
    found = recorder()
    files = archive(("report", tarfile.REGTYPE, content))
    found.feed_stdout(f"{NONCE} start\n{NONCE} end 0\n".encode() + FILES + files)
    assert found.files(("report",), signed="report") == expected


HOSTILE = [
    ("a symlink", ("report", tarfile.SYMTYPE, b"")),
    ("a hard link", ("report", tarfile.LNKTYPE, b"")),
    ("a device", ("report", tarfile.CHRTYPE, b"")),
    ("a pipe", ("report", tarfile.FIFOTYPE, b"")),
    ("a folder", ("report", tarfile.DIRTYPE, b"")),
    ("a name that was not asked for", ("../report", tarfile.REGTYPE, b"x")),
    ("an absolute name", ("/report", tarfile.REGTYPE, b"x")),
    ("a long file", ("report", tarfile.REGTYPE, b"x" * 101)),
]


@pytest.mark.parametrize("entry", [entry for _, entry in HOSTILE], ids=[name for name, _ in HOSTILE])
def test_nothing_but_named_small_regular_files_is_read(entry: tuple[str, bytes, bytes]) -> None:
    good = ("good", tarfile.REGTYPE, b"1")
    assert read_files(archive(entry, good), ("report", "good"), 100) == {"good": b"1"}


def test_a_file_that_was_cut_short_is_left_out() -> None:
    whole = archive(("first", tarfile.REGTYPE, b"1"), ("second", tarfile.REGTYPE, b"x" * 90))
    assert read_files(whole[: 3 * 512 + 40], ("first", "second"), 100) == {"first": b"1"}


@given(st.binary(max_size=3000))
def test_no_bytes_at_all_make_the_reader_fail(data: bytes) -> None:
    read_files(data, ("report",), 100)
