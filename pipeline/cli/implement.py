"""`loopwright implement`: write what a specification asks for and tests check, as a patch on stdout."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import options
from pipeline.cli.one_task import Request, Wishes, flags_of, run_and_tell


def implement(
    ctx: typer.Context,
    repo: Annotated[str, typer.Argument(help="Path or URL of a git repository.", show_default=False)],
    spec: Annotated[
        str | None,
        typer.Option(help="What to write: a text, a file, or - for stdin.", rich_help_panel=options.TASK),
    ] = None,
    function: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH::NAME",
            help="What to write, there or not; repeatable. Else what failing tests ask for.",
            rich_help_panel=options.TASK,
        ),
    ] = None,
    test_command: options.TestCommand = None,
    test: options.Tests = None,
    base_commit: options.BaseCommit = None,
    candidates: options.Candidates = None,
    rounds: options.Rounds = None,
    depth: options.Depth = None,
    max_depth: options.MaxDepth = None,
    model: options.Model = None,
    pull: options.Pull = False,
    endpoint: options.Endpoint = None,
    sandbox: options.SandboxKind = None,
    seed: options.Seed = None,
    wall_seconds: options.WallSeconds = None,
    config: options.Config = None,
    assignments: options.Assignments = None,
    apply: options.Apply = False,
    as_json: options.AsJson = False,
    run_id: options.RunId = "",
) -> None:
    """Write functions that are stubs or not there yet, until their tests pass, and print the patch.

    The tests must be there, and fail. Continue a run that was stopped with `loopwright fix --resume RUN_ID`.
    """
    request = Request(
        repo=repo,
        kind="implement",
        statement=spec,
        test_command=test_command,
        tests=tuple(test or ()),
        functions=tuple(function or ()),
        base_commit=base_commit,
        run_id=run_id,
        wishes=Wishes(apply, pull),
    )
    raise typer.Exit(run_and_tell(request, flags_of(ctx), as_json=as_json))
