"""The small program that both engines run inside a sandbox, and what is said to it.

It unpacks the layers, runs the command, ends what the command left running, and reports on stdout behind a
secret marker, which is also the key that a command gets to sign a file with. Code under test that learned it
could forge the report; all else is its own to choose anyway. The limits never depend on what is reported.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import SandboxRequest
from pipeline.exceptions import InputError
from pipeline.owner import this_process
from workers.sandbox.profiles import RESULTS

PROCESS_PREFIX = "loopwright-supervisor-"  # of the argument that names a run's owner in the process list

# stdin: the marker and the length of the setup, a line each; the setup, which sets layer_bytes, file_bytes,
# names, is_signed and the command; the layers. So a sandbox can be up before it is known what it will run.
# GNU tar holds a hostile layer in /workspace by itself; a read-only root stands behind it.
SUPERVISOR = r"""
IFS= read -r nonce && IFS= read -r setup_bytes || exit 1
eval "$(head -c "$setup_bytes")"
umask 022
if [ "$layer_bytes" -gt 0 ]; then
  head -c "$layer_bytes" | tar --extract --ignore-zeros --no-same-owner -C /workspace -f - || exit 1
fi
mkdir -p "$HOME" 2>/dev/null
cd /workspace || exit 1
unset OLDPWD
printf '%s start\n' "$nonce"
if [ "$is_signed" ]; then "$@" <<END
$nonce
END
else "$@" </dev/null; fi
code=$?
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/}
  case $pid in 1|$$|$PPID) ;; *) kill -KILL "$pid" ;; esac
done 2>/dev/null
printf '%s end %s\n' "$nonce" "$code"
times
cat /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes 2>/dev/null
grep -hs '^oom_kill ' /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control
printf '%s files\n' "$nonce"
cd /results || exit 1
set --
for name in $names; do
  if [ -f "$name" ] && [ ! -L "$name" ] && [ "$(stat -c %s -- "$name")" -le "$file_bytes" ]; then
    set -- "$@" "$name"
  fi
done
[ $# -eq 0 ] || tar --create --format=ustar --hard-dereference --file=- -- "$@"
printf '%s whole\n' "$nonce"
"""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Script:
    """A request as the supervisor takes it."""

    nonce: str
    setup: bytes
    layers: tuple[bytes, ...]

    async def stdin(self) -> AsyncIterator[bytes]:
        """Yield the bytes that the supervisor reads."""
        yield f"{self.nonce}\n{len(self.setup)}\n".encode() + self.setup
        for layer in self.layers:
            view = memoryview(layer)
            for start in range(0, len(layer), _CHUNK_BYTES):
                yield bytes(view[start : start + _CHUNK_BYTES])


def argv() -> tuple[str, ...]:
    """Return the command that starts a supervisor of ours."""
    return ("/bin/sh", "-c", SUPERVISOR, f"{PROCESS_PREFIX}{this_process()}")


def script(request: SandboxRequest) -> Script:
    """Return what the supervisor is told for a request.

    Raises:
        InputError: no command, or one that cannot be passed on, or a name to collect that is no file's.
    """
    if not request.argv:
        raise InputError("a sandbox request needs a command")
    for name in request.collect:
        if not _FILE_NAME.fullmatch(name):
            raise InputError(f"cannot collect {name!r} from {RESULTS}: not a plain file name")
    layers = (*_generated(request), *request.layers)
    return Script(secrets.token_hex(16), _setup(request, sum(len(layer) for layer in layers)), layers)


def _setup(request: SandboxRequest, layer_bytes: int) -> bytes:
    prepared = request.environment.env if request.environment else {}
    env = [f"{name}={value}" for name, value in {**prepared, **request.env}.items()]
    words = ("/usr/bin/env", *env, *request.argv)  # not exported: the supervisor's own tools must not see it
    if "=" in request.argv[0] or any("\0" in word for word in words):
        raise InputError(f"the sandbox cannot run {request.argv[0]!r} with these arguments and variables")
    lines = (
        f"layer_bytes={layer_bytes} file_bytes={request.limits.file_bytes}",
        f"is_signed={int(bool(request.signed)) or ''}",
        f"names={shlex.quote(' '.join(request.collect))}",
        shlex.join(("set", "--", *words)),
    )
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _generated(request: SandboxRequest) -> tuple[bytes, ...]:
    if not request.environment or not request.environment.generated:
        return ()
    try:
        return (Path(request.environment.generated).read_bytes(),)
    except OSError as exc:
        raise InputError(f"the prepared environment is gone: {exc}", hint="prepare it again") from exc
