"""`loopwright fix`: one repository, one task, one patch on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options
from pipeline.cli.one_task import Request, Wishes, flags_of, run_and_tell

if TYPE_CHECKING:
    from pipeline.cli.inputs import Flags


def fix(
    ctx: typer.Context,
    repo: Annotated[
        str | None, typer.Argument(help="Path or URL of a git repository.", show_default=False)
    ] = None,
    issue: Annotated[
        str | None,
        typer.Option(help="What is wrong: a text, a file, or - for stdin.", rich_help_panel=options.TASK),
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
    show_config: Annotated[
        bool,
        typer.Option(
            "--show-config", help="Print the settings that hold, and end.", rich_help_panel=options.SEARCH
        ),
    ] = False,
    apply: options.Apply = False,
    with_test: Annotated[
        bool,
        typer.Option(
            "--with-test",
            help="Let the patch bring the test that was drafted from the issue.",
            rich_help_panel=options.RESULT,
        ),
    ] = False,
    as_json: options.AsJson = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN_ID", help="Continue a run that was stopped.", rich_help_panel=options.RESULT
        ),
    ] = None,
    run_id: options.RunId = "",
) -> None:
    """Repair a repository: draft patches, test them in sandboxes, print one that passes.

    The patch goes to stdout, progress to stderr. Your working tree is never changed without --apply.
    """
    flags = flags_of(ctx)
    if show_config:
        _print_config(flags)
        return
    request = Request(
        repo=repo,
        statement=issue,
        test_command=test_command,
        tests=tuple(test or ()),
        base_commit=base_commit,
        resume=resume,
        run_id=run_id,
        wishes=Wishes(apply, pull, with_test),
    )
    raise typer.Exit(run_and_tell(request, flags, as_json=as_json))


def _print_config(flags: Flags) -> None:
    import yaml

    from pipeline.cli.inputs import resolve_settings

    typer.echo(yaml.safe_dump(resolve_settings(flags).model_dump(mode="json"), sort_keys=False), nl=False)
