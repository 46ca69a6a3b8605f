"""`loopwright model serve`: an OpenAI-compatible server of a looped model, for programs and machines."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pipeline.cli import options


def serve(
    ctx: typer.Context,
    model: options.Model = None,
    max_depth: Annotated[
        int | None, typer.Option(min=1, help="Recurrence depth that a request may ask for, at most.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Show what the loop does to tokens at /metrics, too.")
    ] = False,
    config: options.Config = None,
    assignments: options.Assignments = None,
) -> None:
    """Serve a model with vLLM, each request at its own depth; what follows -- goes to `vllm serve`.

    A request says `"vllm_xargs": {"recurrence_depth": 2}`; also exit_rule, exit_threshold, loop_report.
    """
    from pipeline.cli.compose import cluster_settings
    from pipeline.cli.inputs import Flags, resolve_settings
    from workers.engine.server import ServerSettings, server_command, server_environment

    flags = Flags(config=config, model=model, max_depth=max_depth, assignments=tuple(assignments or ()))
    settings = resolve_settings(flags)
    engine = cluster_settings(settings).engine
    engine.resolved()  # a checkpoint that cannot be served is told at once
    serving = ServerSettings(engine=engine, name=settings.model, host=host, port=port, has_metrics=metrics)
    command = server_command(serving, ctx.args)
    # In this process's place, so that whoever started it signals and waits for the server itself.
    os.execvpe(command[0], command, {**os.environ, **server_environment(serving)})  # noqa: S606
