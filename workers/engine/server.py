"""vLLM's OpenAI server over a model as the local engine runs it; `loopwright model serve` turns into this.

    python -m workers.engine.server SETTINGS [argument of `vllm serve`]...

SETTINGS is a `ServerSettings` as JSON. The process must start in `server_environment`: vLLM reads it while it
is imported.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import Any

from model.exceptions import ModelError
from workers.engine.environment import engine_environment, is_cpu_build
from workers.engine.settings import EngineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """A server, and the engine behind it."""

    engine: EngineSettings  # as asked for, not resolved
    name: str  # that clients know the model by
    host: str
    port: int
    has_metrics: bool  # show what the loop does to tokens; every pass then measures its states


def server_command(settings: ServerSettings, arguments: Sequence[str]) -> list[str]:
    """Return the command that serves; `arguments` go to `vllm serve` and win over ours."""
    return [sys.executable, "-m", "workers.engine.server", json.dumps(asdict(settings)), *arguments]


def server_environment(settings: ServerSettings) -> dict[str, str]:
    """Return the variables that it starts with, but for those of this process."""
    variables = engine_environment(settings.engine, on_cpu=is_cpu_build())
    variables.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # a server's engine has a process of its own
    return variables | {"VLLM_LOGGING_LEVEL": "INFO"}


def vllm_arguments(settings: ServerSettings) -> list[str]:
    """Return the arguments of `vllm serve`.

    Raises:
        ModelUnavailableError: the checkpoint cannot be read or looped.
        EngineSetupError: vLLM did not load loopwright's plugin.
    """
    from workers.engine.backend import engine_args

    values = engine_args(settings.engine.resolved(), has_metrics=settings.has_metrics)
    del values["disable_log_stats"]
    named = {"served_model_name": settings.name, "host": settings.host, "port": settings.port}
    return [values.pop("model"), *_flags(named | values)]


def _flags(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        name = key.replace("_", "-")
        match value:
            case bool():
                yield f"--{name}" if value else f"--no-{name}"
            case dict():
                yield from (f"--{name}", json.dumps(value))
            case list():
                yield from (f"--{name}", *map(str, value))
            case _:
                yield from (f"--{name}", str(value))


def main(argv: Sequence[str]) -> None:
    """Serve until the process is told to end."""
    values = json.loads(argv[0])
    settings = ServerSettings(**values | {"engine": EngineSettings(**values["engine"])})
    with ExitStack() as stack:
        if settings.has_metrics:  # the engine's process counts, and the server's shows
            folder = stack.enter_context(TemporaryDirectory(prefix="loopwright-metrics-"))
            os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        _serve([*vllm_arguments(settings), *argv[1:]])


def _serve(arguments: Sequence[str]) -> None:
    """Do what `vllm serve` does: that command wants a package `vllm`, and the CPU build has another name."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from model.vllm_plugin.failures import failure_told

    cli_env_setup()
    parsed = make_arg_parser(FlexibleArgumentParser(prog="vllm serve")).parse_args(arguments)
    command = ServeSubcommand()
    command.validate(parsed)
    try:
        with failure_told():
            command.cmd(parsed)
    except ModelError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
