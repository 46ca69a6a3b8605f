"""Ray, started or joined quietly: bound to this machine, with a token, without noise or left-overs."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Literal

from pipeline.exceptions import EnvironmentBrokenError

NAMESPACE = "loopwright"
_FOLDER_PREFIX = "loopwright-"
_OBJECT_STORE_BYTES = 128 << 20  # prompts and completions only
_LISTENER_SECONDS = 10.0
_LONGEST_SOCKET_ROOT = 40  # a Unix socket's path holds 107 bytes, of which Ray needs up to 65


def require_engine() -> None:
    """Make sure that Ray and vLLM are installed.

    Raises:
        EnvironmentBrokenError: one is not; the hint names the extra to install.
    """
    missing = [name for name in ("ray", "vllm") if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentBrokenError(
            f"the local engine needs {' and '.join(missing)}, which this environment lacks",
            hint="Run `pip install 'loopwright[cpu]'` (or [gpu]), or name an endpoint to draft with.",
        )


def start_ray(state_folder: Path) -> Path:
    """Start a Ray of this process's own and connect to it; Ray dies with this thread, however it ends.

    Returns the folder of its sockets and logs, for `stop_ray`.

    Raises:
        EnvironmentBrokenError: Ray does not start.
    """
    folder = make_folder("ray")
    _stay_local()
    _use_own_token(state_folder)
    arguments = {
        "_temp_dir": str(folder),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    try:
        _init("local", arguments)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def join_ray(address: str, state_folder: Path | None = None) -> None:
    """Connect this process to a running Ray; with `state_folder`, to one that `start_ray` started there.

    Raises:
        EnvironmentBrokenError: no Ray answers at the address.
    """
    _require_listener(address)
    if state_folder is not None:
        _stay_local()
        _use_own_token(state_folder)
    _init(address, {})


def stop_ray(folder: Path | None) -> None:
    """Disconnect, and end the Ray that this process started, if `folder` is what `start_ray` returned."""
    import ray

    ray.shutdown()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(kind: Literal["ray", "engine"]) -> Path:
    """Make a folder for as long as this process lives, and remove those of processes that were killed."""
    root = _socket_root()
    remove_stale_folders(root)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{kind}-{os.getpid()}-", dir=root))


def remove_stale_folders(root: Path) -> None:
    """Remove the folders whose process is gone without having removed them."""
    import psutil

    for folder in [*root.glob(f"{_FOLDER_PREFIX}ray-*-*"), *root.glob(f"{_FOLDER_PREFIX}engine-*-*")]:
        owner = folder.name.removeprefix(_FOLDER_PREFIX).split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _require_listener(address: str) -> None:
    """Find out at once, and not after minutes, that nothing listens there. "auto" is left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_LISTENER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise EnvironmentBrokenError(
            f"no Ray answers at {address}: {error}", hint="`ray status` on that machine shows its address."
        ) from error


def _init(address: str, arguments: dict[str, object]) -> None:
    _quiet()
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)  # it says before `init` that it is in a thread
    # What a raylet reports, such as the death of an actor, Ray prints on stdout, where only results belong.
    # It has no setting for that.
    ray._private.worker._worker_logs_enabled = False
    try:
        ray.init(
            address,
            namespace=NAMESPACE,
            # A "client job" does not put the current folder first on its workers' import path. That folder is
            # often a repository to be repaired, and may hold a `workers` or `model` package of its own.
            job_config=ray.job_config.JobConfig(_client_job=True),
            log_to_driver=False,
            configure_logging=False,
            logging_level="ERROR",
            **arguments,
        )
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = "Ray does not start" if address == "local" else f"no Ray answers at {address}"
        raise EnvironmentBrokenError(
            f"{what}: {error}", hint="`loopwright doctor` checks this machine."
        ) from error


def _quiet() -> None:
    """Set what Ray reads from the environment when it is first imported or starts its processes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about the future
    os.environ.setdefault("RAY_LOGGER_LEVEL", "ERROR")
    # Ray's own 15 lets every other process of the machine go before the engine, which the user waits for.
    os.environ.setdefault("RAY_worker_niceness", "0")


def _stay_local() -> None:
    """Have every port of Ray listen on 127.0.0.1 alone; a variable that Ray otherwise uses on macOS."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _use_own_token(state_folder: Path) -> None:
    """Have Ray demand a token that only this user can read. Ray's ports run code for whoever reaches them."""
    path = state_folder / "ray_token"
    state_folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=state_folder) as file:  # readable by its owner alone
            file.write(secrets.token_hex(32))
            file.flush()
            with contextlib.suppress(FileExistsError):  # of two starts at once, one token counts
                os.link(file.name, path)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _socket_root() -> Path:
    root = Path(tempfile.gettempdir())
    return root if len(str(root)) <= _LONGEST_SOCKET_ROOT else Path("/tmp")  # noqa: S108 mkdtemp makes it private
