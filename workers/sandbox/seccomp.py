"""The system-call filter: refuses what reaches deep into the kernel and no test needs.

The profile names the calls. bubblewrap is given the program. A container has Docker's own filter already, and
`LAUNCHER` puts this one on top of it: the kernel asks both, so nothing is ever weakened.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.exceptions import InputError
from workers.sandbox.profiles import HARDENED, Profile

# linux/filter.h and linux/seccomp.h
_INSTRUCTION = struct.Struct("=HBBI")  # code, jump if true, jump if false, operand
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24  # offsets in seccomp_data (low words)
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_X32_BIT = 0x40000000  # the x86-64 calls once more under other numbers
# linux/sched.h: new cgroup, ipc, mount, network, pid, user, uts namespace
_CLONE_NAMESPACES = 0x02000000 | 0x08000000 | 0x00020000 | 0x40000000 | 0x20000000 | 0x10000000 | 0x04000000

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
_MACHINES = ("x86_64", "aarch64")
_PRCTL = {"x86_64": 157, "aarch64": 167}

# Arguments: the program in hexadecimal, prctl's number, the command. Perl is part of every Debian, starts in
# milliseconds and can make a system call: PR_SET_NO_NEW_PRIVS, then PR_SET_SECCOMP with a filter.
LAUNCHER = r"""
my ($program, $prctl) = (pack("H*", shift), 0 + shift);
my $filter = pack("S x!8 P", length($program) / 8, $program);
syscall($prctl, 38, 1, 0, 0, 0) == 0 && syscall($prctl, 22, 2, $filter) == 0
  or die "no system-call filter: $!\n";
exec @ARGV or die "$ARGV[0]: $!\n";
"""

# name: (x86_64, aarch64); None where the machine has no such call
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
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
    "ioctl": (16, 29),
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
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}


def compiled(profile: Profile = HARDENED, machine: str | None = None) -> bytes | None:
    """Return the filter as the kernel takes it; None where nothing is refused, or nothing can be.

    The latter is a machine whose call numbers are not known here.

    Raises:
        InputError: the profile names a call that is not known here.
    """
    machine = machine or platform.machine()
    if machine not in _MACHINES or not profile.refuses_calls:
        return None
    return _assembled(list(_program(profile, machine)))


def launched(argv: tuple[str, ...], profile: Profile) -> tuple[str, ...]:
    """Return the command behind the launcher that puts it under the filter; itself where there is none."""
    program = compiled(profile)
    if program is None:
        return argv
    return ("perl", "-e", LAUNCHER, program.hex(), str(_PRCTL[platform.machine()]), *argv)


def numbers(machine: str) -> dict[str, int]:
    """Return the numbers that the known calls have on this machine, by name."""
    column = _MACHINES.index(machine)
    return {name: number for name, row in _NUMBERS.items() if (number := row[column]) is not None}


class _Instruction(NamedTuple):
    code: int
    operand: int
    if_true: str = ""  # a label; empty: the next instruction
    if_false: str = ""
    label: str = ""  # of this instruction


def _program(profile: Profile, machine: str) -> Iterator[_Instruction]:
    yield _Instruction(_LOAD, _ARCHITECTURE)
    yield _Instruction(_JUMP_EQUAL, _ARCHITECTURES[machine], if_false="kill")
    yield _Instruction(_LOAD, _NUMBER)
    yield _Instruction(_JUMP_GREATER_EQUAL, _X32_BIT, if_true="refuse")
    for name in profile.refused_system_calls:
        if (number := _number(name, machine)) is not None:
            # Of clone3 the arguments cannot be read: "no such call" makes libraries fall back to clone.
            yield _Instruction(_JUMP_EQUAL, number, if_true="none" if name == "clone3" else "refuse")
    if profile.refused_namespaces:
        yield from _refusing("clone", machine, _ARGUMENT_0, _JUMP_SET, (_CLONE_NAMESPACES,))
    yield from _refusing("socket", machine, _ARGUMENT_0, _JUMP_EQUAL, profile.refused_socket_families)
    yield from _refusing("ioctl", machine, _ARGUMENT_1, _JUMP_EQUAL, profile.refused_terminal_controls)
    yield _Instruction(_RETURN, _ALLOW)
    yield _Instruction(_RETURN, _ERRNO | errno.EPERM, label="refuse")
    yield _Instruction(_RETURN, _ERRNO | errno.ENOSYS, label="none")
    yield _Instruction(_RETURN, _KILL_PROCESS, label="kill")


def _refusing(
    name: str, machine: str, argument: int, jump: int, values: tuple[int, ...]
) -> Iterator[_Instruction]:
    """Yield what refuses a call by one of its arguments; the number is loaded before and behind it."""
    number = _number(name, machine)
    assert number is not None
    yield _Instruction(_JUMP_EQUAL, number, if_false=f"not {name}")
    yield _Instruction(_LOAD, argument)
    for value in values:
        yield _Instruction(jump, value, if_true="refuse")
    yield _Instruction(_LOAD, _NUMBER, label=f"not {name}")


def _number(name: str, machine: str) -> int | None:
    if name not in _NUMBERS:
        raise InputError(f"the sandbox profile refuses {name}, a system call that is not known here")
    return _NUMBERS[name][_MACHINES.index(machine)]


def _assembled(instructions: list[_Instruction]) -> bytes:
    places = {instruction.label: i for i, instruction in enumerate(instructions) if instruction.label}

    def jump(label: str, here: int) -> int:
        return places[label] - here - 1 if label else 0  # counted from the next instruction

    return b"".join(
        _INSTRUCTION.pack(one.code, jump(one.if_true, i), jump(one.if_false, i), one.operand)
        for i, one in enumerate(instructions)
    )
