"""`loopwright model retrofit`: a dense checkpoint made into a looped one, for training to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.exceptions import InputError


def retrofit(
    source: Annotated[Path, typer.Argument(help="Folder of a dense Llama, Qwen2, Qwen3 or OLMo-2.")],
    target: Annotated[Path, typer.Argument(help="Folder to write, in the published layout of retrofits.")],
    prelude: Annotated[int, typer.Option(min=0, help="First layers, run once.")],
    core: Annotated[int, typer.Option(min=1, help="Layers before the coda, looped.")],
    coda: Annotated[int, typer.Option(min=0, help="Last layers, run once.")],
    depth: Annotated[int, typer.Option(min=1, help="Recurrence depth that it will be trained for.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Cut a dense checkpoint into prelude, core and coda; drops layers between, so it needs training."""
    from model.checkpoints.retrofit_convert import Cut, convert
    from model.exceptions import ModelError

    cut = Cut(num_prelude_layers=prelude, num_core_layers=core, num_coda_layers=coda, recurrence_depth=depth)
    try:
        config = convert(source, target, cut)
    except ModelError as exc:
        raise InputError(str(exc), hint=exc.hint) from exc
    if as_json:
        typer.echo(json.dumps({"path": str(target), "config": config.to_json_dict()}, indent=2))
        return
    typer.echo(f"{target}: {prelude} + {core} + {coda} layers, looped {depth} times")
    typer.echo("Every depth computes the donor without its dropped layers, until the adapter is trained.")
