"""`loopwright model`: fetch, list, verify and find models; plan for them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from pipeline.cli import options
from pipeline.cli.model_inspect import inspect
from pipeline.cli.model_plan import plan
from pipeline.cli.model_retrofit import retrofit
from pipeline.cli.model_search import search_window
from pipeline.cli.model_serve import serve
from pipeline.exceptions import InputError, ModelUnavailableError

if TYPE_CHECKING:
    from model.provision import Dtype, OnProgress, Progress

app = typer.Typer(no_args_is_help=True, help="Fetch, list, verify and find models; plan for them.")
app.command()(plan)
app.command()(inspect)
app.command()(retrofit)
app.command("search-window")(search_window)
app.command(context_settings={"allow_extra_args": True})(serve)

_PLAIN_SECONDS = 5.0  # between two lines of progress where stderr is no terminal
_DEFAULT = "qwen2.5-coder-1.5b"

Name = Annotated[str, typer.Argument(help="The model's name, as `loopwright model list` shows it.")]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="auto (what this CPU is fast at), int8, float32 or bfloat16.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def pull(
    name: Name = _DEFAULT,
    dtype: DtypeOption = "auto",
    source: Annotated[
        str | None,
        typer.Option(
            help="hub, mirror, or a path: a folder with safetensors and tokenizer, or a .gguf file."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Download a model, check its hash, convert it, print its folder. Goes on where it was interrupted."""
    from model import provision

    with _translated(), progress_shown() as on_progress:
        path = provision.pull(name, dtype=_dtype(dtype), source=source, on_progress=on_progress)
    typer.echo(json.dumps({"name": name, "dtype": path.name, "path": str(path)}) if as_json else str(path))


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the models that can be pulled, and what of them is here."""
    from model import provision

    models = provision.list_models()
    if as_json:
        typer.echo(json.dumps([asdict(model) for model in models], default=str, indent=2))
        return
    rows = [("NAME", "DTYPE", "SIZE", "SOURCE", "PATH")]
    for model in models:
        rows += [
            (model.name, variant.dtype, _gigabytes(variant.num_bytes), variant.source, str(variant.path))
            for variant in model.variants
        ] or [(model.name, "-", "-", "-", f"not here ({model.description})")]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def verify(name: Name = _DEFAULT, as_json: JsonOption = False) -> None:
    """Hash every file of a model again; say which one is missing or changed."""
    from model import provision

    with _translated(), progress_shown() as on_progress:
        found = provision.verify(name, on_progress=on_progress)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], default=str, indent=2))
    else:
        for one in found:
            typer.echo(f"{one.path}: {'; '.join(one.problems) or 'as it was finished'}")
    damaged = [one.dtype for one in found if one.problems]
    if damaged:
        raise ModelUnavailableError(
            f"the model {name} is damaged as {', '.join(damaged)}",
            hint=f"delete the folder, then: loopwright model pull {name} --dtype {damaged[0]}",
        )


@app.command()
def path(name: Name = _DEFAULT, dtype: DtypeOption = "auto", as_json: JsonOption = False) -> None:
    """Print the folder of a model that is here; exit 4 where it is not."""
    from model import provision

    with _translated():
        folder = provision.resolve(name, dtype=_dtype(dtype))
    typer.echo(json.dumps({"name": name, "path": str(folder)}) if as_json else str(folder))


@app.command()
def probe(
    ctx: typer.Context,
    depth: Annotated[
        int, typer.Option(min=0, help="Recurrence depth to probe at; 0: as the model was trained.")
    ] = 0,
    shown: Annotated[bool, typer.Option("--show", help="Only show what is known already.")] = False,
    model: options.Model = None,
    endpoint: options.Endpoint = None,
    sandbox: options.SandboxKind = None,
    config: options.Config = None,
    assignments: options.Assignments = None,
    as_json: JsonOption = False,
) -> None:
    """Find out what a model can do on its own, so that `ask` gives it no more; takes minutes, and is kept."""
    from pipeline.cli.probing import run_probe, table

    if not shown:
        run_probe(ctx, depth)
    typer.echo(table(as_json=as_json))


@contextmanager
def progress_shown() -> Iterator[OnProgress]:
    """Yield a callback that shows progress on stderr: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _PlainLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(progress: Progress) -> None:
            if progress.step not in tasks:
                tasks[progress.step] = bars.add_task(progress.step)
            bars.update(
                tasks[progress.step],
                description=f"{progress.step:9} {progress.note[:40]}",
                completed=progress.done_bytes,
                total=progress.total_bytes or None,
            )

        yield show


class _PlainLines:
    """Prints a line when a step begins, one each few seconds, and one when it ends."""

    def __init__(self) -> None:
        self._step, self._has_ended = "", False
        self._next_time = 0.0

    def __call__(self, progress: Progress) -> None:
        is_new = progress.step != self._step
        is_end = 0 < progress.total_bytes <= progress.done_bytes
        is_due = time.monotonic() >= self._next_time or (is_end and not self._has_ended)
        if not is_new and (not is_due or self._has_ended):
            return
        self._step, self._has_ended = progress.step, is_end
        self._next_time = time.monotonic() + _PLAIN_SECONDS
        amount = (
            f" {_gigabytes(progress.done_bytes)} of {_gigabytes(progress.total_bytes)}"
            if progress.total_bytes
            else ""
        )
        print(f"{progress.step}{amount} {progress.note}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def _translated() -> Iterator[None]:
    from model.exceptions import ModelError

    try:
        yield
    except ModelError as exc:
        raise ModelUnavailableError(str(exc), hint=exc.hint) from exc


def _dtype(text: str) -> Dtype | Literal["auto"]:
    from model.provision import DTYPES

    if text not in ("auto", *DTYPES):
        raise InputError(f"{text!r} is no dtype", hint=f"one of: auto, {', '.join(DTYPES)}")
    return cast("Dtype | Literal['auto']", text)


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
