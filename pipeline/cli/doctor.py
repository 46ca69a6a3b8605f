"""`loopwright doctor`: what works on this machine, what does not, and how to mend it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.errors import ExitCode

if TYPE_CHECKING:
    from pipeline.cli.checks import Check

_MARKS = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "failed": ("FAIL", "bold red")}


def doctor(
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Check for drafting with this server instead.")
    ] = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="Check for these settings.")] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also hash the model and start the engine (a minute or two).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say what works on this machine, what does not, and how to mend it.

    Ends with 0 where `fix` can run with these settings, else with 4.
    """
    from pipeline.cli.checks import run_checks
    from pipeline.cli.inputs import Flags, resolve_settings

    settings = resolve_settings(Flags(endpoint=endpoint, config=config))
    checks = asyncio.run(run_checks(settings, deep=deep))
    can_fix = not any(check.status == "failed" for check in checks)
    if as_json:
        typer.echo(json.dumps({"can_fix": can_fix, "checks": [asdict(check) for check in checks]}, indent=1))
    else:
        _print_table(checks)
    raise typer.Exit(ExitCode.SOLVED if can_fix else ExitCode.ENVIRONMENT)


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark, style = _MARKS[check.status]
        line = Text.assemble((f"{mark:4}", style), f"  {check.name:{width}}  {check.detail}")
        console.print(line, soft_wrap=True)
        if check.hint and check.status != "ok":
            console.print(f"{'':{width + 8}}-> {check.hint}", markup=False, highlight=False, soft_wrap=True)
    failed = [check.name for check in checks if check.status == "failed"]
    verdict = f"fix cannot run: {', '.join(failed)}" if failed else "fix can run here"
    console.print(verdict, markup=False, highlight=False, style="bold", soft_wrap=True)
