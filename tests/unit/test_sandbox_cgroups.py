"""Where a control group can be made and what it says of its run, for both versions of the interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.sandbox.cgroups import Cgroup, parents
from workers.sandbox.watch import Usage


def hierarchy(root: Path, folders: dict[str, str | None]) -> Path:
    """Make folders as the kernel shows them, by what their cgroup.subtree_control holds (None: no file)."""
    for name, controllers in folders.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "cgroup.procs").touch()
        if controllers is not None:
            (root / name / "cgroup.subtree_control").write_text(controllers)
    return root


def membership(folder: Path, *lines: str) -> Path:
    file = folder / "membership"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_version_1_groups_are_made_below_our_own(tmp_path: Path) -> None:
    root = hierarchy(tmp_path / "fs", {"memory/a/b": None, "pids": None, "cpu,cpuacct/c": None})
    lines = ("4:memory:/a/b", "3:pids:/", "2:cpu,cpuacct:/c", "1:name=systemd:/x", "0::/")
    assert parents(membership(tmp_path, *lines), root) == {
        "memory": root / "memory/a/b",
        "pids": root / "pids",
        "cpu": root / "cpu,cpuacct/c",
        "cpuacct": root / "cpu,cpuacct/c",
    }


def test_in_a_container_our_own_group_is_the_root_that_is_seen(tmp_path: Path) -> None:
    root = hierarchy(tmp_path / "fs", {"memory": None, "pids": None})
    found = parents(membership(tmp_path, "4:memory:/docker/abc", "3:pids:/docker/abc"), root)
    assert found == {"memory": root / "memory", "pids": root / "pids"}


@pytest.mark.parametrize(
    ("own", "folders", "expected"),
    [
        ("/user/app/run.scope", {"user/app": "cpu memory pids", "user/app/run.scope": ""}, "user/app"),
        (
            "/user/app/run.scope",
            {"user/app": "pids", "user/app/run.scope": ""},
            None,
        ),  # memory is not delegated
        ("/", {"": "memory pids"}, ""),  # the root may hold processes and groups at once
        ("/", {"": None}, None),  # a container's root, which is no real one
    ],
)
def test_version_2_groups_are_made_beside_our_own(
    tmp_path: Path, own: str, folders: dict[str, str | None], expected: str | None
) -> None:
    root = hierarchy(tmp_path / "fs", folders)
    found = parents(membership(tmp_path, f"0::{own}"), root)
    assert found == ({} if expected is None else {"": root / expected})


def test_usage_of_a_version_2_group(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\n")
    (tmp_path / "memory.peak").write_text("4096\n")
    (tmp_path / "memory.events").write_text("low 0\nmax 3\noom 1\noom_kill 1\n")
    assert Cgroup({"": tmp_path}).read() == Usage(1.5, 4096, out_of_memory=True)


def test_usage_of_a_version_1_group(tmp_path: Path) -> None:
    (tmp_path / "cpuacct.usage").write_text("1500000000\n")
    (tmp_path / "memory.max_usage_in_bytes").write_text("4096\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert Cgroup({"memory": tmp_path, "cpuacct": tmp_path}).read() == Usage(1.5, 4096)


def test_the_last_usage_stands_when_the_group_is_gone(tmp_path: Path) -> None:
    group = Cgroup({"": tmp_path})
    (tmp_path / "cpu.stat").write_text("usage_usec 1000000\n")
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    first = group.read()
    (tmp_path / "cpu.stat").unlink()
    assert group.read() == first == Usage(1.0, None)
