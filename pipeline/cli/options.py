"""The options that several commands share, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

TASK = "The task"
SEARCH = "The search"
RESULT = "The result"

TestCommand = Annotated[
    str | None, typer.Option(help="How to run the tests: `python -m pytest`.", rich_help_panel=TASK)
]
Tests = Annotated[
    list[str] | None,
    typer.Option(
        "--test",
        metavar="ID",
        help="A test that must pass; repeatable. Else every failing one.",
        rich_help_panel=TASK,
    ),
]
BaseCommit = Annotated[
    str | None,
    typer.Option(metavar="COMMIT", help="Start there, not at the working tree.", rich_help_panel=TASK),
]
Candidates = Annotated[int | None, typer.Option(min=1, help="Drafts a round.", rich_help_panel=SEARCH)]
Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds at most.", rich_help_panel=SEARCH)]
Depth = Annotated[
    int | None,
    typer.Option(min=1, help="Recurrence depth of every round, at least.", rich_help_panel=SEARCH),
]
MaxDepth = Annotated[
    int | None, typer.Option(min=1, help="Recurrence depth at most.", rich_help_panel=SEARCH)
]
Model = Annotated[
    str | None,
    typer.Option(help="A name of `loopwright model list`, or a checkpoint.", rich_help_panel=SEARCH),
]
Pull = Annotated[
    bool, typer.Option("--pull", help="Fetch the model if it is not here.", rich_help_panel=SEARCH)
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Draft with an OpenAI-compatible server, up to /v1.", rich_help_panel=SEARCH
    ),
]
SandboxKind = Annotated[
    str | None,
    typer.Option(metavar="auto|docker|bubblewrap", help="Where tests run.", rich_help_panel=SEARCH),
]
Seed = Annotated[int | None, typer.Option(help="Of the sampling.", rich_help_panel=SEARCH)]
WallSeconds = Annotated[float | None, typer.Option(help="Give up after this time.", rich_help_panel=SEARCH)]
Config = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Settings: a YAML file, `fast`, `thorough`.", rich_help_panel=SEARCH),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting.", rich_help_panel=SEARCH),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=RESULT)]
Apply = Annotated[
    bool,
    typer.Option(
        "--apply/--dry-run", help="Change the working tree, or only print the patch.", rich_help_panel=RESULT
    ),
]
RunId = Annotated[str, typer.Option(help="Name the run.", rich_help_panel=RESULT)]
