"""The options that several commands share, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

_SEARCH = "The search"
_RESULT = "The result"

Candidates = Annotated[int | None, typer.Option(min=1, help="Drafts a round.", rich_help_panel=_SEARCH)]
Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds at most.", rich_help_panel=_SEARCH)]
Depth = Annotated[
    int | None,
    typer.Option(min=1, help="Recurrence depth of every round, at least.", rich_help_panel=_SEARCH),
]
MaxDepth = Annotated[
    int | None, typer.Option(min=1, help="Recurrence depth at most.", rich_help_panel=_SEARCH)
]
Model = Annotated[
    str | None,
    typer.Option(help="A name of `loopwright model list`, or a checkpoint.", rich_help_panel=_SEARCH),
]
Pull = Annotated[
    bool, typer.Option("--pull", help="Fetch the model if it is not here.", rich_help_panel=_SEARCH)
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Draft with an OpenAI-compatible server, up to /v1.", rich_help_panel=_SEARCH
    ),
]
SandboxKind = Annotated[
    str | None,
    typer.Option(metavar="auto|docker|bubblewrap", help="Where tests run.", rich_help_panel=_SEARCH),
]
Seed = Annotated[int | None, typer.Option(help="Of the sampling.", rich_help_panel=_SEARCH)]
WallSeconds = Annotated[float | None, typer.Option(help="Give up after this time.", rich_help_panel=_SEARCH)]
Config = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Settings: a YAML file, `fast`, `thorough`.", rich_help_panel=_SEARCH),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting.", rich_help_panel=_SEARCH),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=_RESULT)]
