"""`loopwright sandbox`: build and list the Docker sandbox's images, and check that a sandbox works here."""

from __future__ import annotations

import asyncio
import enum
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.exceptions import InputError, LoopwrightError

if TYPE_CHECKING:
    from workers.sandbox.image import ImageRecord

app = typer.Typer(no_args_is_help=True)


class Kind(enum.StrEnum):
    """Which sandbox."""

    AUTO = "auto"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"


@app.command()
def build(
    python: Annotated[
        list[str] | None, typer.Option("--python", help="The image with this Python, as 3.9; repeatable.")
    ] = None,
    generic: Annotated[
        bool, typer.Option("--generic", help="The image with compilers, make and git.")
    ] = False,
    all_images: Annotated[bool, typer.Option("--all", help="All that can be had on this machine.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build anew even if the image is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each record as a line of JSON.")] = False,
) -> None:
    """Build images of the Docker sandbox; does nothing for those that are there."""
    from pipeline.cli.home import home_root
    from workers.sandbox.docker_sandbox import connect
    from workers.sandbox.image import ensure_image, remove_image

    client, failed = connect(), None
    for tag in _tags(python or [], generic=generic, all_images=all_images):
        if force:
            remove_image(client, home_root(), tag)
        try:
            _print_image(ensure_image(client, home_root(), tag, _say), as_json=as_json)
        except LoopwrightError as error:
            if not all_images:
                raise
            failed = error
            _say(f"{tag}: {error}")
    if failed:
        raise failed


@app.command()
def images(
    as_json: Annotated[bool, typer.Option("--json", help="Print each record as a line of JSON.")] = False,
) -> None:
    """List the images that are here, with the digests of what is in them."""
    from pipeline.cli.home import home_root
    from workers.sandbox.docker_sandbox import connect
    from workers.sandbox.image import find_image
    from workers.sandbox.image_table import IMAGES

    client = connect()
    for tag, spec in IMAGES.items():
        record = find_image(client, home_root(), spec)
        if record:
            _print_image(record, as_json=as_json)
        else:
            _say(f"{tag}: not built")


def _tags(pythons: list[str], *, generic: bool, all_images: bool) -> list[str]:
    from workers.sandbox.image_table import DEFAULT_PYTHON, GENERIC, IMAGES, PYTHONS

    if all_images:
        return list(IMAGES)
    known = {spec.python: spec.tag for spec in PYTHONS}
    unknown = [version for version in pythons if version not in known]
    if unknown:
        raise InputError(f"no image has Python {unknown[0]}", hint=f"there are {', '.join(known)}")
    tags = [known[version] for version in pythons] + [GENERIC.tag] * generic
    return tags or [known[DEFAULT_PYTHON]]


def _print_image(record: ImageRecord, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps(asdict(record)))
    else:
        typer.echo(f"{record.tag} {record.image_id}")
        details = {"Python": record.python, "on": record.base, "packages": record.packages}
        typer.echo("  " + ", ".join(f"{name} {value}" for name, value in details.items() if value))


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
