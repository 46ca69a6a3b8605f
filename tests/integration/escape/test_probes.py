"""What one process may not do, in either sandbox; and the proof that these tests would notice if it could."""

from __future__ import annotations

import pytest

from tests.integration.escape.conftest import Findings, ProbesIn
from tests.integration.escape.probes import CALLS, PROBES
from workers.sandbox.profiles import HARDENED

pytestmark = pytest.mark.integration

_NOT_IN_EVERY_KERNEL = "kernels without the feature refuse it whatever the profile says"
_NEVER_GIVEN = "no profile can ask for it: neither engine is ever told to hand it over"
_KEPT_BY_THE_ENGINE = "the engine mounts its file systems this way whatever it is told"
_NEEDS_MORE = "needs a capability that machines in the cloud often lack themselves"
# Refused by the negative control, too, and why.
WITHOUT_CONTROL = {
    **dict.fromkeys(
        (
            "loading a kernel module",
            "loading a kernel module from a file",
            "removing a kernel module",
            "loading another kernel",
            "the system request key",
            "the loader of modules",
            "the kernel's cryptography sockets",
            "io_uring, which no filter sees into",
            "sockets to virtual machines",
        ),
        _NOT_IN_EVERY_KERNEL,
    ),
    **dict.fromkeys(
        (
            "the kernel's memory",
            "the kernel's messages",
            "the host's disks",
            "the host's root by the first process",
            "engine sockets",
            "the host's services",
            "seeing processes that are not its own",
            "settings of the host's devices",
        ),
        _NEVER_GIVEN,
    ),
    **dict.fromkeys(
        (
            "setuid files of its own",
            "using a device made in the workspace",
            "the agent that the host runs for an empty control group",
            "raising its own limits in its control group",
        ),
        _KEPT_BY_THE_ENGINE,
    ),
    "raising a limit of its own": _NEEDS_MORE,
}


@pytest.mark.parametrize("name", [*CALLS, *PROBES])
async def test_refused(findings: Findings, name: str) -> None:
    assert findings[name][0] == "refused", findings[name][1]


@pytest.mark.parametrize("name", [name for name in (*CALLS, *PROBES) if name not in WITHOUT_CONTROL])
async def test_the_negative_control_gets_through(probes_in: ProbesIn, name: str) -> None:
    found = {engine: (await probes_in(engine, is_weak=True))[name] for engine in ("docker", "bubblewrap")}
    assert "got through" in {word for word, _ in found.values()}, found


def test_every_call_of_the_profile_is_tried_or_is_a_sibling_of_one_that_is() -> None:
    siblings = {
        "create_module",
        "fsconfig",
        "fsmount",
        "fspick",
        "io_uring_enter",
        "io_uring_register",
        "ioperm",
    }
    siblings |= {
        "iopl",
        "kexec_file_load",
        "lookup_dcookie",
        "move_pages",
        "name_to_handle_at",
        "quotactl_fd",
    }
    siblings |= {"setdomainname", "swapoff"}
    assert set(HARDENED.refused_system_calls) == {call for call, _ in CALLS.values()} - {"clone"} | siblings
