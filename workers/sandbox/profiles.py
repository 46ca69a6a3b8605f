"""The sandbox profile: what every run is denied and what it is given, whichever engine runs it.

`docker_profile` and `bubblewrap_profile` turn it into what their engines take. What a single request may
differ in (limits, mounts, the network of the prepare phase) is not in it. `configs/sandbox/hardened.yaml`
spells it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config import read_yaml
from pipeline.exceptions import InputError

WORKSPACE = "/workspace"
RESULTS = "/results"
HOME = "/tmp/home"  # noqa: S108 - inside the sandbox

# What reaches deep into the kernel and no test needs: what Docker refuses by default
# (docs.docker.com/engine/security/seccomp), with io_uring, keyrings, userfaultfd and ptrace as well.
REFUSED_SYSTEM_CALLS = (
    *("acct", "add_key", "bpf", "chroot", "clock_adjtime", "clock_settime", "clone3", "create_module"),
    *("delete_module", "fanotify_init", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick"),
    *("init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp"),
    *("kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mount", "mount_setattr", "move_mount"),
    *("move_pages", "name_to_handle_at", "open_by_handle_at", "open_tree", "perf_event_open"),
    *("pidfd_getfd", "pivot_root", "process_vm_readv", "process_vm_writev", "ptrace", "quotactl"),
    *("quotactl_fd", "reboot", "request_key", "setdomainname", "sethostname", "setns", "settimeofday"),
    *("swapoff", "swapon", "syslog", "umount2", "unshare", "userfaultfd"),
)


class Profile(BaseModel):
    """What a run is denied and given. The defaults are the hardened ones; every other value weakens it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: int = Field(default=65532, ge=0)  # "nonroot"; the group has the same number
    hostname: str = Field(default="sandbox", min_length=1)
    capabilities: tuple[str, ...] = ()  # kept, by names such as CHOWN
    no_new_privileges: bool = True  # bubblewrap sets it whatever this says
    read_only_root: bool = True
    shared_namespaces: tuple[Literal["net", "ipc", "uts"], ...] = ()  # with the host
    refused_system_calls: tuple[str, ...] = REFUSED_SYSTEM_CALLS
    refused_namespaces: bool = True  # clone and unshare may make none
    refused_socket_families: tuple[int, ...] = (17, 38, 40)  # packet, alg, vsock
    refused_terminal_controls: tuple[int, ...] = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing for others
    tmpfs_options: tuple[str, ...] = ("nosuid", "nodev")
    shared_memory_bytes: int = Field(default=64 << 20, ge=0)
    results_bytes: int = Field(default=64 << 20, ge=1 << 20)
    num_open_files: int = Field(default=4096, ge=64)
    num_core_bytes: int = Field(default=0, ge=0)
    env: Mapping[str, str] = Field(
        default={
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
    )
    docker_defaults: bool = True  # Docker's own system-call filter, and the paths that it masks
    runtime: str = ""  # of Docker, such as runsc; empty: the engine's own

    @property
    def refuses_calls(self) -> bool:
        """Whether a system-call filter of ours is wanted at all."""
        by_argument = (self.refused_socket_families, self.refused_terminal_controls)
        return bool(self.refused_system_calls or self.refused_namespaces or any(by_argument))


HARDENED = Profile()


def read_profile(path: Path) -> Profile:
    """Return the profile that a YAML file holds; what it leaves out stays hardened.

    Raises:
        InputError: it cannot be read, or says something that there is not.
    """
    try:
        return Profile.model_validate(read_yaml(path))
    except ValidationError as exc:
        problem = exc.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise InputError(
            f"{path}: {place}: {problem['msg']}", hint="configs/sandbox/hardened.yaml has every key"
        ) from exc
