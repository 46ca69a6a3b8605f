"""The small program that both engines run inside a sandbox, and what is said to it.

It unpacks the layers, runs the command, ends what the command left running, and reports on stdout behind a
secret marker. Code under test could learn the marker and forge the report; that gains it nothing, since the
exit code and the files are its own to choose anyway. The limits never depend on what is reported.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import SandboxRequest
from pipeline.exceptions import InputError
from workers.sandbox.owner import this_process

WORKSPACE = "/workspace"
RESULTS = "/results"
HOME = "/tmp/home"  # noqa: S108 - inside the sandbox

SANDBOX_UID = 65532  # "nonroot": needs no entry in a password file
HOSTNAME = "sandbox"
PROCESS_PREFIX = "loopwright-supervisor-"  # of the argument that names a run's owner in the process list

# Arguments: layer bytes, longest collected file, names to collect, the command. stdin begins with the marker.
# GNU tar holds a hostile layer in /workspace by itself; a read-only root stands behind it.
SUPERVISOR = r"""
IFS= read -r nonce || exit 1
layer_bytes=$1 file_bytes=$2 names=$3
shift 3
umask 022
if [ "$layer_bytes" -gt 0 ]; then
  head -c "$layer_bytes" | tar --extract --ignore-zeros --no-same-owner -C /workspace -f - || exit 1
fi
mkdir -p "$HOME" 2>/dev/null
cd /workspace || exit 1
unset OLDPWD
printf '%s start\n' "$nonce"
"$@" </dev/null
code=$?
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/}
  case $pid in 1|$$|$PPID) ;; *) kill -KILL "$pid" ;; esac
done 2>/dev/null
printf '%s end %s\n' "$nonce" "$code"
times
cat /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes 2>/dev/null
printf '%s files\n' "$nonce"
cd /results || exit 0
set --
for name in $names; do
  if [ -f "$name" ] && [ ! -L "$name" ] && [ "$(stat -c %s -- "$name")" -le "$file_bytes" ]; then
    set -- "$@" "$name"
  fi
done
[ $# -eq 0 ] || tar --create --format=ustar --hard-dereference --file=- -- "$@"
exit 0
"""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Script:
    """A request as the supervisor takes it."""

    nonce: str
    argv: tuple[str, ...]
    layers: tuple[bytes, ...]

    async def stdin(self) -> AsyncIterator[bytes]:
        """Yield the bytes that the supervisor reads."""
        yield f"{self.nonce}\n".encode()
        for layer in self.layers:
            view = memoryview(layer)
            for start in range(0, len(layer), _CHUNK_BYTES):
                yield bytes(view[start : start + _CHUNK_BYTES])


def script(request: SandboxRequest) -> Script:
    """Return the supervisor's argv and stdin for a request.

    Raises:
        InputError: no command, or a name to collect that is not a plain file name.
    """
    if not request.argv:
        raise InputError("a sandbox request needs a command")
    for name in request.collect:
        if not _FILE_NAME.fullmatch(name):
            raise InputError(f"cannot collect {name!r} from {RESULTS}: not a plain file name")
    layers = (*_generated(request), *request.layers)
    layer_bytes = sum(len(layer) for layer in layers)
    numbers = (str(layer_bytes), str(request.limits.output_bytes))
    argv = (
        "/bin/sh",
        "-c",
        SUPERVISOR,
        f"{PROCESS_PREFIX}{this_process()}",
        *numbers,
        " ".join(request.collect),
        *request.argv,
    )
    return Script(nonce=secrets.token_hex(16), argv=argv, layers=layers)


def _generated(request: SandboxRequest) -> tuple[bytes, ...]:
    if not request.environment or not request.environment.generated:
        return ()
    try:
        return (Path(request.environment.generated).read_bytes(),)
    except OSError as exc:
        raise InputError(f"the prepared environment is gone: {exc}", hint="prepare it again") from exc


def environment(request: SandboxRequest, path: str) -> dict[str, str]:
    """Return the variables that the command sees: a fixed base, the environment's, the request's."""
    base = {
        "PATH": path,
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    prepared = request.environment.env if request.environment else {}
    return {**base, **prepared, **request.env}
