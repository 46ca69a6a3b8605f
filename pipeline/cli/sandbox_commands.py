"""`loopwright sandbox`: build the Docker sandbox's image, and check that a sandbox works on this machine."""

from __future__ import annotations

import asyncio
import enum
import json
import sys
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True)


class Kind(enum.StrEnum):
    """Which sandbox."""

    AUTO = "auto"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"


@app.command()
def build(
    force: Annotated[bool, typer.Option("--force", help="Build anew even if the image is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Build the image of the Docker sandbox; does nothing when it is there."""
    from dataclasses import asdict

    from pipeline.cli.home import home_root
    from workers.sandbox.docker_sandbox import connect
    from workers.sandbox.image import ensure_image, remove_image

    client = connect()
    if force:
        remove_image(client, home_root())
    record = ensure_image(client, home_root(), on_progress=_say)
    typer.echo(json.dumps(asdict(record)) if as_json else f"{record.tag} {record.image_id}")


@app.command()
def check(
    kind: Annotated[Kind, typer.Option("--sandbox", help="Which sandbox.")] = Kind.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Run a sandbox once, look at it from the inside, and say what it cannot enforce here."""
    findings = asyncio.run(_check(kind))
    if as_json:
        typer.echo(json.dumps(findings))
    else:
        _print(findings)
    if not all(findings["promises"].values()):
        raise typer.Exit(4)


def _print(findings: dict[str, Any]) -> None:
    typer.echo(f"sandbox: {findings['sandbox']}")
    for promise, kept in findings["promises"].items():
        typer.echo(f"{'kept  ' if kept else 'BROKEN'}  {promise}")
    for weakness in findings["weaknesses"]:
        typer.echo(f"weak    {weakness}")


async def _check(kind: Kind) -> dict[str, Any]:
    from pipeline.cli.home import home_root
    from workers.sandbox.selection import select_sandbox
    from workers.sandbox.selfcheck import check_promises

    sandbox = await select_sandbox(kind.value, home=home_root(), on_progress=_say)
    return {
        "sandbox": sandbox.name,
        "promises": await check_promises(sandbox),
        "weaknesses": sandbox.weaknesses(),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
