"""What goes in and comes out is hostile: names, links, devices, sizes and numbers of files."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pipeline.core import Outcome
from pipeline.protocols import Sandbox
from tests.integration.sandbox_tools import layer, limits, member, python, shell

pytestmark = pytest.mark.integration

HOSTILE_LAYERS = {
    "parent": layer({"../evil": b"x", "../../../../tmp/evil": b"x"}),
    "absolute": layer({"/tmp/evil": b"x", "/results/evil": b"x"}),
    "symlink": layer({"way/evil": b"x"}, (member("way", tarfile.SYMTYPE, "/tmp"),)),
    "symlink up": layer({"way/evil": b"x"}, (member("way", tarfile.SYMTYPE, "../results"),)),
    "hard link": layer({"evil": b"x"}, (member("evil", tarfile.LNKTYPE, "/etc/passwd"),)),
    "device": layer({}, (member("evil", tarfile.CHRTYPE),)),
}


def _evil_on_the_host() -> bool:
    return any(Path(place, "evil").exists() for place in ("/tmp", "/results", "/workspace"))


@pytest.mark.parametrize("hostile", HOSTILE_LAYERS.values(), ids=HOSTILE_LAYERS)
async def test_a_hostile_layer_cannot_write_outside_the_workspace(sandbox: Sandbox, hostile: bytes) -> None:
    looks = "find / -xdev -name evil 2>/dev/null; find /tmp /results /dev -name evil; cat /etc/passwd"
    result = await sandbox.run(shell(looks, layers=(hostile,)))
    assert result.outcome in (Outcome.EXITED, Outcome.INFRA_ERROR)  # refused as a whole, or put inside
    assert "evil" not in result.stdout.text()
    assert not _evil_on_the_host()
    if result.outcome is Outcome.INFRA_ERROR:
        assert "tar" in result.error


RESULTS = r"""
import os
os.chdir("/results")
os.symlink("/etc/passwd", "link")
os.mkfifo("pipe")
os.mkdir("folder")
open("huge", "wb").truncate(60 << 20)
open("long", "wb").write(b"x" * 5000)
open("good", "w").write("1")
os.link("good", "twin")
os.symlink("good", "inner")
"""
NAMES = ("link", "pipe", "folder", "huge", "long", "inner", "good", "twin")


async def test_only_small_regular_files_are_collected(sandbox: Sandbox) -> None:
    result = await sandbox.run(python(RESULTS, collect=NAMES, limits=limits(file_bytes=4096)))
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0)
    assert dict(result.collected) == {"good": b"1", "twin": b"1"}


HOLE = r"""
import sys
with open("/results/report", "wb") as file:
    file.truncate(int(sys.argv[1]))  # takes no disk, and is as many bytes when it is read
"""


async def test_a_sparse_file_is_not_collected(sandbox: Sandbox) -> None:
    terabyte = await sandbox.run(python(HOLE, str(1 << 40), collect=("report",)))
    assert (terabyte.exit_code, dict(terabyte.collected)) == (1, {"report": b""})  # it cannot be made
    request = python(HOLE, str(8 << 20), collect=("report",), limits=limits(file_bytes=1 << 20))
    megabytes = await sandbox.run(request)
    assert (megabytes.exit_code, set(megabytes.collected)) == (0, set())


async def test_a_report_that_is_a_link_is_not_collected(sandbox: Sandbox) -> None:
    request = shell("ln -s /etc/passwd /results/report", collect=("report",))
    result = await sandbox.run(request)
    assert (result.exit_code, dict(result.collected)) == (0, {})


MANY = r"""
import os
os.chdir("/results")
for number in range(5_000):
    open(f"{number}\n\x1b[2J-{'x' * 200}", "w").close()
open("report", "w").write("small")
"""


async def test_files_that_nobody_asked_for_stay_inside_however_many(sandbox: Sandbox) -> None:
    result = await sandbox.run(python(MANY, collect=("report",), limits=limits()))
    assert dict(result.collected) == {"report": b"small"}
