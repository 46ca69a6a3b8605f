"""Asks the sandbox which interpreter it has, so that wheels and cached environments fit it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from pipeline.core import Outcome, SandboxLimits, SandboxRequest
from pipeline.exceptions import PrepareError
from pipeline.protocols import Sandbox

_PROBE = """
import json, os, platform, sys, sysconfig
soabi = sysconfig.get_config_var("SOABI") or ""
print(json.dumps({
    "version": platform.python_version(),
    "abi": "cp" + soabi.split("-")[1] if soabi.startswith("cpython-") else "none",
    "machine": platform.machine(),
    "glibc": platform.libc_ver()[1],
    "prefix": sys.base_prefix,
    "search_path": os.environ.get("PATH", ""),
}))
"""
_LIMITS = SandboxLimits(wall_seconds=60)
_OLDEST_GLIBC_MINOR = 5  # manylinux1
_LEGACY_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True)
class Interpreter:
    """A sandbox's Python."""

    version: str  # "3.11.7"
    abi: str  # "cp311"
    machine: str  # "x86_64"
    glibc: str  # "2.36"; "" for musl
    prefix: str
    search_path: str  # PATH of the sandbox
    image: str = ""  # that it is in, where that is not the sandbox's own

    def describe(self) -> str:
        """Return everything that decides which wheels fit, as one line."""
        return json.dumps(asdict(self), sort_keys=True)

    def fits(self, requires_python: str) -> bool:
        """Say whether a `requires-python` allows it; one that cannot be read allows any."""
        try:
            return SpecifierSet(requires_python).contains(self.version, prereleases=True)
        except InvalidSpecifier:
            return True

    def pip_options(self) -> list[str]:
        """Return the options that make a pip elsewhere choose wheels for this interpreter."""
        options = ["--python-version", self.version, "--implementation", "cp"]
        for abi in (self.abi, "abi3", "none"):
            options += ["--abi", abi]
        for platform in self._platforms():
            options += ["--platform", platform]
        return options

    def _platforms(self) -> list[str]:
        if not self.glibc:
            return [f"musllinux_1_2_{self.machine}", f"musllinux_1_1_{self.machine}", f"linux_{self.machine}"]
        names = []
        for minor in range(Version(self.glibc).minor, _OLDEST_GLIBC_MINOR - 1, -1):
            names.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in _LEGACY_NAMES:
                names.append(f"{_LEGACY_NAMES[minor]}_{self.machine}")
        return [*names, f"linux_{self.machine}"]


async def probe(sandbox: Sandbox, python: str, image: str = "") -> Interpreter:
    """Return the interpreter called `python` in the sandbox, or in an image other than the sandbox's own.

    Raises:
        PrepareError: there is none, or it cannot be asked.
    """
    argv = (python, "-I", "-c", _PROBE)
    result = await sandbox.run(SandboxRequest(argv=argv, limits=_LIMITS, image=image))
    if result.outcome is not Outcome.EXITED or result.exit_code != 0:
        reason = result.error or result.stderr.text().strip() or result.outcome
        raise PrepareError(
            f"the {sandbox.name} sandbox has no usable {python}: {reason}",
            hint="run `loopwright doctor`, or name another with sandbox.python or sandbox.image",
        )
    try:
        return Interpreter(**json.loads(result.stdout.text()), image=image)
    except (ValueError, TypeError) as exc:
        raise PrepareError(f"{python} in the {sandbox.name} sandbox gave no usable answer: {exc}") from exc
