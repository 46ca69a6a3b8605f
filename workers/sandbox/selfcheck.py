"""A look at a sandbox from the inside: does it keep its promises on this machine?"""

from __future__ import annotations

import json

from pipeline.core import Outcome, SandboxLimits, SandboxRequest
from pipeline.exceptions import SandboxError
from pipeline.protocols import Sandbox

_PROBE = r"""
import json, os, socket

status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)

def writable(path):
    try:
        open(path, "w").close()
        return True
    except OSError:
        return False

def connects():
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    except TimeoutError:
        return True  # a packet left
    except OSError:
        return False

print(json.dumps({
    "Python runs": True,
    "no root inside": os.getuid() != 0,
    "no capabilities": int(status["CapEff"], 16) == 0,
    "no new privileges": status["NoNewPrivs"].strip() == "1",
    "dangerous system calls are filtered": status["Seccomp"].strip() == "2",
    "the root is read-only": not any(map(writable, ("/probe", "/usr/probe", "/etc/probe", "/dev/probe"))),
    "the workspace is writable": writable("/workspace/probe"),
    "no network": not connects(),
    "no other process is visible": len([name for name in os.listdir("/proc") if name.isdigit()]) < 8,
    "nothing of the host's environment": "LOGNAME" not in os.environ and "SSH_AUTH_SOCK" not in os.environ,
}))
"""


async def check_promises(sandbox: Sandbox) -> dict[str, bool]:
    """Return each promise and whether it is kept.

    Raises:
        SandboxError: the sandbox does not run at all.
    """
    result = await sandbox.run(
        SandboxRequest(argv=("python3", "-c", _PROBE), limits=SandboxLimits(wall_seconds=30))
    )
    if result.outcome is not Outcome.EXITED or result.exit_code != 0:
        said = result.error or result.stderr.text().strip()[-500:]
        raise SandboxError(
            f"the {sandbox.name} sandbox does not work: {said}",
            hint="`loopwright doctor` says what is missing",
        )
    promises: dict[str, bool] = json.loads(result.stdout.text())
    return promises
