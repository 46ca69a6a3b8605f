"""The system-call filter of the bubblewrap sandbox: refuses what reaches deep into the kernel.

A deny list after what Docker refuses by default (docs.docker.com/engine/security/seccomp), with io_uring,
keyrings, userfaultfd and ptrace as well. Docker's own profile stays untouched in the Docker sandbox.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator

# linux/filter.h and linux/seccomp.h
_INSTRUCTION = struct.Struct("=HBBI")  # code, jump if true, jump if false, operand
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_X32_BIT = 0x40000000  # the x86-64 calls once more under other numbers

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
_MACHINES = ("x86_64", "aarch64")

# name: (x86_64, aarch64); None where the machine has no such call
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}


def compiled(machine: str | None = None) -> bytes | None:
    """Return the filter as the kernel takes it; None for a machine whose call numbers are not known."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        return None
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in _program(machine))


def _program(machine: str) -> Iterator[tuple[int, int, int, int]]:
    column = _MACHINES.index(machine)
    numbers = [row[column] for row in _REFUSED.values()]
    refused = [number for number in numbers if number is not None]
    yield (_LOAD, 0, 0, _ARCHITECTURE_OFFSET)
    yield (_JUMP_EQUAL, 1, 0, _ARCHITECTURES[machine])
    yield (_RETURN, 0, 0, _KILL_PROCESS)
    yield (_LOAD, 0, 0, _NUMBER_OFFSET)
    # Jumps count from the next instruction; the refusal is the last one, after the permission.
    yield (_JUMP_GREATER_EQUAL, len(refused) + 1, 0, _X32_BIT)
    for position, number in enumerate(refused):
        yield (_JUMP_EQUAL, len(refused) - position, 0, number)
    yield (_RETURN, 0, 0, _ALLOW)
    yield (_RETURN, 0, 0, _ERRNO | errno.EPERM)
