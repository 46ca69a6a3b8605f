"""The checks behind `loopwright doctor`. Each looks at one thing and never raises for what it finds."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.cli import compose
from pipeline.cli.errors import describe
from pipeline.cli.home import engine_root, home_root
from pipeline.config import Settings
from pipeline.core import Message, Outcome, Prompt, Sampling, SandboxRequest
from pipeline.telemetry import discard
from pipeline.text import duration, printable, size

Status = Literal["ok", "warning", "failed"]

_MIN_FREE_BYTES = 1_000_000_000
_COMFORTABLE_FREE_BYTES = 6_000_000_000
_COMFORTABLE_MEMORY_BYTES = 8_000_000_000
_QUICK_SECONDS = 10
_INSTALL_HINT = "pip install 'loopwright[cpu]' (or [gpu]), or draft with a server: --endpoint URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one look has shown. "failed" means that `fix` cannot run."""

    name: str
    status: Status
    detail: str
    hint: str = ""


_Look = Callable[[], Check | Awaitable[Check]]


async def run_checks(settings: Settings, *, deep: bool) -> list[Check]:
    """Return all checks for these settings; `deep` also hashes the model and starts the engine."""
    looks: dict[str, _Look] = {
        "python": _python,
        "git": _git,
        "home": _home,
        "memory": _memory,
        "cpu": _cpu,
    }
    if settings.endpoint.url:
        looks["endpoint"] = lambda: _endpoint(settings)
    else:
        looks |= {"engine": _packages, "plugin": _plugin}
        looks |= {"model": lambda: _model(settings, deep=deep), "warm engine": _warm_engine}
        if deep:
            looks["engine start"] = lambda: _engine(settings)
    checks = [await _safely(name, look) for name, look in looks.items()]
    return [*checks, *await _sandboxes(settings), await _safely("package index", _index)]


async def _safely(name: str, look: _Look) -> Check:
    try:
        found = look()
        return found if isinstance(found, Check) else await found
    except Exception as exc:
        message, hint = describe(exc)
        return Check(name=name, status="failed", detail=message, hint=hint)


def _python() -> Check:
    required = importlib.metadata.metadata("loopwright")["Requires-Python"]
    return Check(name="python", status="ok", detail=f"{platform.python_version()} (needs {required})")


def _git() -> Check:
    path = shutil.which("git")
    if path is None:
        return Check(name="git", status="failed", detail="not found", hint="Debian: apt install git")
    return Check(name="git", status="ok", detail=_output([path, "--version"]))


def _home() -> Check:
    root = home_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            free = shutil.disk_usage(root).free
    except OSError as exc:
        hint = "set LOOPWRIGHT_HOME to a folder that you can write"
        return Check(name="home", status="failed", detail=f"{root}: {exc.strerror}", hint=hint)
    status: Status = "ok" if free >= _COMFORTABLE_FREE_BYTES else "warning"
    hint = f"a model and its conversion take about {size(_COMFORTABLE_FREE_BYTES)}"
    if free < _MIN_FREE_BYTES:
        status, hint = "failed", "free some space, or set LOOPWRIGHT_HOME to a folder on another disk"
    return Check(name="home", status=status, detail=f"{root}, {size(free)} free", hint=hint)


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{size(memory.available)} of {size(memory.total)} available"
    is_enough = memory.available >= _COMFORTABLE_MEMORY_BYTES
    hint = f"the default engine takes about {size(_COMFORTABLE_MEMORY_BYTES)}; qwen2.5-coder-0.5b takes 5 GB"
    return Check(name="memory", status="ok" if is_enough else "warning", detail=detail, hint=hint)


def _cpu() -> Check:
    from model.provision import default_dtype

    num_cpus = len(os.sched_getaffinity(0))
    return Check(name="cpu", status="ok", detail=f"{num_cpus} CPUs usable; fastest dtype: {default_dtype()}")


def _packages() -> Check:
    missing = [name for name in ("vllm", "ray", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            name="engine", status="failed", detail=f"not installed: {', '.join(missing)}", hint=_INSTALL_HINT
        )
    versions = [f"{name} {_version(name)}" for name in ("vllm", "ray", "torch")]
    return Check(name="engine", status="ok", detail=", ".join(versions))


def _plugin() -> Check:
    names = [point.name for point in importlib.metadata.entry_points(group="vllm.general_plugins")]
    if "loopwright" in names:
        return Check(name="plugin", status="ok", detail="vLLM will find the looped model classes")
    hint = "install loopwright itself (pip install .), not only its source folder"
    return Check(name="plugin", status="failed", detail="vLLM's entry point is not registered", hint=hint)


def _model(settings: Settings, *, deep: bool) -> Check:
    from model.provision import store
    from model.provision.progress import ignore

    try:
        path = compose.find_model(settings)
    except Exception as exc:
        message, hint = describe(exc)
        return Check(name="model", status="failed", detail=message, hint=hint.removesuffix("; or add --pull"))
    if not deep:
        return Check(name="model", status="ok", detail=f"{path} (complete; --deep hashes it)")
    if store.read_manifest(path) is None:
        return Check(name="model", status="ok", detail=f"{path} (a checkpoint of your own, not verified)")
    problems = store.problems(path, ignore)
    if problems:
        hint = f"delete {path}, then: loopwright model pull {settings.model}"
        return Check(name="model", status="failed", detail="; ".join(problems), hint=hint)
    return Check(name="model", status="ok", detail=f"{path} (verified)")


def _warm_engine() -> Check:
    from workers import warm_state

    state = warm_state.read(engine_root())
    if state is None:
        detail = "none; `loopwright up` starts one that later commands reuse"
        return Check(name="warm engine", status="ok", detail=detail)
    status: Status = "warning" if state.phase == "failed" else "ok"
    detail = f"{state.phase}, {state.model}, process {state.pid}"
    return Check(name="warm engine", status=status, detail=detail, hint="loopwright down")


async def _engine(settings: Settings) -> Check:
    begun_at = time.monotonic()
    generator = compose.start_generator(compose.cluster_settings(settings), discard)
    try:
        info = await generator.info()
        started_after = time.monotonic() - begun_at
        prompt = Prompt(messages=(Message("user", "Say yes."),))
        sampling = Sampling(recurrence_depth=info.recurrence_depth, max_tokens=8)
        [[completion]] = await generator.generate([prompt], sampling)
    finally:
        await asyncio.to_thread(generator.close)
    detail = f"up after {duration(started_after)}; {completion.num_completion_tokens} tokens drafted"
    return Check(name="engine start", status="ok", detail=detail)


async def _endpoint(settings: Settings) -> Check:
    from workers.edges import endpoint_generator

    info = await endpoint_generator(settings.endpoint).info()
    detail = f"{settings.endpoint.url} serves {printable(info.model)}, {info.max_model_tokens} tokens"
    return Check(name="endpoint", status="ok", detail=detail)


async def _sandboxes(settings: Settings) -> list[Check]:
    """Return the checks of both sandboxes: what was asked for must work, and with "auto" one of them."""
    found = {
        "docker": await _safely("docker", lambda: _docker(settings)),
        "bubblewrap": await _safely("bubblewrap", _bubblewrap),
    }
    works = [name for name, check in found.items() if check.status != "failed"]
    is_needed = {settings.sandbox.kind} if settings.sandbox.kind != "auto" else set() if works else set(found)
    return [_required(name, check, is_needed=name in is_needed) for name, check in found.items()]


def _required(name: str, check: Check, *, is_needed: bool) -> Check:
    status: Status = check.status if is_needed or check.status != "failed" else "warning"
    return Check(name=name, status=status, detail=check.detail, hint=check.hint)


def _docker(settings: Settings) -> Check:
    from docker.errors import ImageNotFound

    from workers.sandbox.docker_sandbox import DockerSandbox, connect
    from workers.sandbox.selection import image_tag

    tag = image_tag(settings.sandbox)
    with contextlib.closing(connect(timeout_seconds=_QUICK_SECONDS)) as client:
        engine = f"engine {client.version()['Version']}"
        try:
            image = client.images.get(tag)
        except ImageNotFound:
            hint = "the first run builds one of ours; or: loopwright sandbox build"
            detail = f"{engine}, image {tag} not here"
            return Check(name="docker", status="warning", detail=detail, hint=hint)
        weaknesses = "; ".join(DockerSandbox(client, str(image.id)).weaknesses())
    detail = f"{engine}, image {image.short_id}; but {weaknesses}"
    return Check(name="docker", status="ok", detail=detail)


async def _bubblewrap() -> Check:
    from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox

    sandbox = BubblewrapSandbox()
    result = await sandbox.run(SandboxRequest(argv=("true",), run_id="doctor"))
    if result.outcome is not Outcome.EXITED or result.exit_code != 0:
        detail = printable(result.error or result.stderr.text() or str(result.outcome), 400)
        hint = "user namespaces may be off: sysctl kernel.unprivileged_userns_clone=1, or use Docker"
        return Check(name="bubblewrap", status="failed", detail=detail, hint=hint)
    weaknesses = "; ".join(sandbox.weaknesses())
    detail = f"runs programs in {duration(result.wall_seconds)}" + (
        f"; but {weaknesses}" if weaknesses else ""
    )
    return Check(name="bubblewrap", status="ok", detail=detail)


def _index() -> Check:
    """Look whether pip finds its index, which installing a target's dependencies needs."""
    quick = ["--disable-pip-version-check", "--timeout", "5", "--retries", "0"]
    try:
        answer = _output([sys.executable, "-m", "pip", *quick, "index", "versions", "pip"])
    except (OSError, subprocess.SubprocessError) as exc:
        hint = "targets with dependencies that are not cached cannot be prepared; check pip's index and proxy"
        return Check(name="package index", status="warning", detail=f"no answer ({exc})"[:200], hint=hint)
    return Check(name="package index", status="ok", detail=f"answers: {answer}")


def _output(argv: list[str]) -> str:
    """Return the first line that a program prints."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=2 * _QUICK_SECONDS, check=True)
    return printable(done.stdout.partition("\n")[0])


def _version(package: str) -> str:
    # vLLM's CPU build is a distribution of another name.
    names: Iterator[str] = iter(importlib.metadata.packages_distributions().get(package, [package]))
    return importlib.metadata.version(next(names))
