"""The decisions that need no engine: what is asked of Docker and bwrap, what is refused, who owns what."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.core import Mount, SandboxLimits, SandboxRequest
from pipeline.exceptions import EnvironmentBrokenError, InputError
from pipeline.owner import Owner, this_process
from workers.sandbox import bubblewrap_profile, docker_profile, seccomp, supervisor
from workers.sandbox.mounts import requested
from workers.sandbox.profiles import HARDENED, Profile, read_profile
from workers.sandbox.selection import select_sandbox

REQUEST = SandboxRequest(
    argv=("pytest",),
    env={"A": "1"},
    limits=SandboxLimits(
        wall_seconds=10, memory_bytes=100 << 20, num_pids=33, num_cpus=0.5, disk_bytes=9 << 20
    ),
    run_id="run-1",
)


def test_a_container_is_asked_for_with_every_restriction() -> None:
    body = docker_profile.container(REQUEST, HARDENED, "sha256:abc", deadline=1)
    host = body["HostConfig"]
    assert body["Image"] == "sha256:abc"
    assert body["User"] == "65532:65532"
    assert body["NetworkDisabled"] is True
    assert body["Labels"]["io.loopwright.run"] == "run-1"
    assert body["Labels"]["io.loopwright.owner"] == str(this_process())
    assert body["Entrypoint"] == ["timeout", "-s", "KILL", "190"]  # ends even if nobody reaps it
    assert (host["NetworkMode"], host["CapDrop"], host["Privileged"]) == ("none", ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges"]  # and so Docker's own seccomp profile
    assert (host["ReadonlyRootfs"], host["Init"], host["IpcMode"]) == (True, True, "private")
    assert host["Memory"] == host["MemorySwap"] == 100 << 20
    assert (host["PidsLimit"], host["NanoCpus"]) == (33, 500_000_000)
    assert set(host["Tmpfs"]) == {"/workspace", "/results", "/tmp"}
    assert all(f"nosuid,nodev,size={9 << 20}" in options for options in host["Tmpfs"].values())
    assert {"Name": "core", "Soft": 0, "Hard": 0} in host["Ulimits"]
    assert host["LogConfig"]["Type"] == "none"
    assert host["Mounts"] == []
    assert "Devices" not in host
    assert "Binds" not in host


def test_bwrap_is_asked_for_every_namespace_and_sizes_for_every_tmpfs() -> None:
    words = bubblewrap_profile.options(REQUEST, HARDENED, (), (), {})
    assert {
        *(f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup-try")),
        "--disable-userns",
        "--new-session",
        "--die-with-parent",
    } <= set(words)
    assert words[words.index("--cap-drop") + 1] == "ALL"
    places = [position for position, word in enumerate(words) if word == "--tmpfs"]
    assert len(places) == 4
    assert all(words[position - 2] == "--size" for position in places)
    assert words.index("--clearenv") < words.index("--setenv")
    assert words[-2:] == ["--chdir", "/workspace"]
    assert not any(word == "--bind" for word in words)


def test_the_network_is_shared_only_when_it_is_asked_for() -> None:
    request = SandboxRequest(argv=("pip",), network=True)
    assert "--unshare-net" not in bubblewrap_profile.options(request, HARDENED, (), (), {})
    body = docker_profile.container(request, HARDENED, "image", deadline=1)
    assert body["HostConfig"]["NetworkMode"] == "bridge"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("/", "/opt/x"),  # the whole host
        ("/root", "/opt/x"),
        ("/etc", "/opt/x"),
        ("/var/run", "/opt/x"),  # where engine sockets live
        ("/no/such/folder", "/opt/x"),
        ("relative", "/opt/x"),
        ("{tmp}", "/"),
        ("{tmp}", "/workspace"),  # the layers' place
        ("{tmp}", "/usr/lib"),
        ("{tmp}", "/opt/../usr"),
        ("{tmp}", "opt/x"),
    ],
)
def test_mounts_that_would_give_the_host_away_are_refused(tmp_path: Path, source: str, target: str) -> None:
    mount = Mount(source=source.replace("{tmp}", str(tmp_path)), target=target)
    with pytest.raises(InputError):
        requested(SandboxRequest(argv=("true",), mounts=(mount,)))


def test_outer_mounts_come_before_inner_ones(tmp_path: Path) -> None:
    targets = ("/opt/a/b", "/opt/a", "/opt")
    mounts = tuple(Mount(source=str(tmp_path), target=target) for target in targets)
    found = requested(SandboxRequest(argv=("true",), mounts=mounts))
    assert [mount.target for mount in found] == ["/opt", "/opt/a", "/opt/a/b"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "/etc/passwd", "-rf", "a b", "$(id)", "a\nb", "."])
def test_only_plain_file_names_can_be_collected(name: str) -> None:
    with pytest.raises(InputError):
        supervisor.script(SandboxRequest(argv=("true",), collect=(name,)))


def test_a_request_needs_a_command() -> None:
    with pytest.raises(InputError):
        supervisor.script(SandboxRequest(argv=()))


def decide(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a filter as the kernel does and return its verdict."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    while True:
        operation, if_true, if_false, operand = code[position]
        position += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, operand)[0]
        elif operation == 0x06:
            return operand
        else:
            tests = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: accumulator & operand}
            position += if_true if tests[operation] else if_false


X86_64, AARCH64 = 0xC000003E, 0xC00000B7
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
NO_SUCH_CALL = 0x00050000 | errno.ENOSYS
NEW_USER, VIRTUAL_MACHINES, TYPE_INTO_TERMINAL = 0x10000000, 40, 0x5412


@pytest.mark.parametrize(
    ("machine", "architecture", "call", "verdict"),
    [
        ("x86_64", X86_64, (0,), ALLOW),  # read
        ("x86_64", X86_64, (59,), ALLOW),  # execve
        ("x86_64", X86_64, (163,), REFUSE),  # acct: the first of the list
        ("x86_64", X86_64, (323,), REFUSE),  # userfaultfd: the last
        ("x86_64", X86_64, (272,), REFUSE),  # unshare
        ("x86_64", X86_64, (0x40000000,), REFUSE),  # the x32 calls
        ("x86_64", X86_64, (56, 17), ALLOW),  # clone, as fork does
        ("x86_64", X86_64, (56, 17 | NEW_USER), REFUSE),
        ("x86_64", X86_64, (435,), NO_SUCH_CALL),  # clone3
        ("x86_64", X86_64, (41, 2), ALLOW),  # a socket of the internet
        ("x86_64", X86_64, (41, VIRTUAL_MACHINES), REFUSE),
        ("x86_64", X86_64, (16, 0, 0x5413), ALLOW),  # the size of a terminal
        ("x86_64", X86_64, (16, 0, TYPE_INTO_TERMINAL), REFUSE),
        ("x86_64", 0x40000003, (0,), KILL),  # 32-bit calls
        ("aarch64", AARCH64, (63,), ALLOW),  # read
        ("aarch64", AARCH64, (97,), REFUSE),  # unshare
        ("aarch64", X86_64, (63,), KILL),
    ],
)
def test_the_system_call_filter_decides(
    machine: str, architecture: int, call: tuple[int, ...], verdict: int
) -> None:
    program = seccomp.compiled(machine=machine)
    assert program is not None
    assert decide(program, architecture, *call) == verdict


def test_a_profile_that_refuses_less_has_a_filter_that_refuses_less() -> None:
    profile = Profile(refused_system_calls=("ptrace",), refused_namespaces=False, refused_socket_families=())
    program = seccomp.compiled(profile, "x86_64")
    assert program is not None
    assert decide(program, X86_64, 101) == REFUSE
    assert decide(program, X86_64, 272) == decide(program, X86_64, 56, NEW_USER) == ALLOW
    assert decide(program, X86_64, 41, VIRTUAL_MACHINES) == ALLOW


def test_hardened_yaml_tells_the_hardened_profile() -> None:
    path = Path(__file__).parents[2] / "configs" / "sandbox" / "hardened.yaml"
    assert read_profile(path) == HARDENED
    assert set(yaml.safe_load(path.read_text())) == set(Profile.model_fields)


def test_a_profile_with_an_unknown_key_is_refused_and_the_key_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("privileged: true\n")
    with pytest.raises(InputError, match="privileged"):
        read_profile(path)


def test_every_weakness_that_a_profile_can_name_reaches_both_engines() -> None:
    weak = Profile(
        uid=0,
        capabilities=("CHOWN",),
        no_new_privileges=False,
        read_only_root=False,
        shared_namespaces=("net", "ipc", "uts"),
        refused_namespaces=False,
        docker_defaults=False,
        runtime="runsc",
    )
    host = docker_profile.container(REQUEST, weak, "image", deadline=1)["HostConfig"]
    assert (host["CapAdd"], host["SecurityOpt"]) == (["CHOWN"], ["seccomp=unconfined"])
    assert (host["NetworkMode"], host["IpcMode"], host["UTSMode"]) == ("host", "host", "host")
    assert (host["ReadonlyRootfs"], host["Runtime"], host["MaskedPaths"]) == (False, "runsc", [])
    words = bubblewrap_profile.options(REQUEST, weak, (), (), {})
    assert not {"--unshare-net", "--unshare-ipc", "--unshare-uts", "--disable-userns"} & set(words)
    assert words[words.index("--cap-add") + 1] == "CAP_CHOWN"
    assert words[words.index("--uid") + 1] == "0"
    assert "/" not in [words[i + 1] for i, word in enumerate(words) if word == "--remount-ro"]


def test_a_call_that_is_not_known_is_named() -> None:
    with pytest.raises(InputError, match="no_such_call"):
        seccomp.compiled(Profile(refused_system_calls=("no_such_call",)))


def test_an_unknown_machine_has_no_filter() -> None:
    assert seccomp.compiled(machine="riscv64") is None


def test_a_living_owner_is_not_dead() -> None:
    mine = this_process()
    assert Owner.parse(f"loopwright-{mine}-0123456789ab") == mine
    assert not mine.is_dead


def test_a_process_that_ended_is_dead_even_before_its_parent_noticed() -> None:
    code = "from pipeline.owner import this_process; print(this_process())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner = Owner.parse(process.stdout.read())
        assert owner is not None
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner.is_dead
    assert owner.is_dead


def test_a_pid_that_was_used_again_is_another_owner() -> None:
    mine = this_process()
    assert Owner(mine.boot, mine.pid_namespace, mine.pid, mine.start_ticks + 1).is_dead


def test_owners_that_cannot_be_seen_from_here_are_never_taken_for_dead() -> None:
    mine = this_process()
    assert not Owner("00000000", mine.pid_namespace, mine.pid, 1).is_dead
    assert not Owner(mine.boot, mine.pid_namespace + 1, mine.pid, 1).is_dead


@pytest.fixture
def _no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")


@pytest.mark.usefixtures("_no_engine")
async def test_docker_without_an_engine_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBrokenError) as raised:
        await select_sandbox("docker", home=tmp_path)
    assert "bubblewrap" in raised.value.hint


@pytest.mark.usefixtures("_no_engine")
async def test_auto_without_an_engine_is_bubblewrap_and_says_why(tmp_path: Path) -> None:
    said: list[str] = []
    sandbox = await select_sandbox("auto", home=tmp_path, on_progress=said.append)
    assert sandbox.name == "bubblewrap"
    assert "no Docker engine answers" in said[-1]
