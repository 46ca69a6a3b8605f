"""`loopwright ask`: a question about repositories or long texts, answered with the places it rests on."""

from __future__ import annotations

import enum
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options
from pipeline.cli.errors import ExitCode
from pipeline.exceptions import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.account import Event
    from pipeline.cli.inputs import Flags
    from pipeline.context.reading import Answer, Span

READING = "The reading"


class TierChoice(enum.StrEnum):
    """Who reads, and how."""

    AUTO = "auto"
    LEXICAL = "lexical"
    DESCENT = "descent"
    ACTIONS = "actions"
    FOLD = "fold"
    RECURSIVE = "recursive"


def ask(
    ctx: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(help="Repositories (path or URL), folders, files, or - for stdin.")
    ],
    question: Annotated[str, typer.Option("--question", "-q", help="A text, a file, or - for stdin.")],
    tier: Annotated[
        TierChoice,
        typer.Option(
            help="lexical: words choose what the model reads; descent: the model judges a tree; "
            "actions: it looks around in one; recursive: it writes code that reads; fold: it reads all, "
            "part by part; auto: what it can do.",
            rich_help_panel=READING,
        ),
    ] = TierChoice.AUTO,
    calls: Annotated[
        int | None, typer.Option(min=1, help="Calls of the model at most.", rich_help_panel=READING)
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens at most, prompts too.", rich_help_panel=READING)
    ] = None,
    wall_seconds: Annotated[
        float | None, typer.Option(help="Answer with what there is after this time.", rich_help_panel=READING)
    ] = None,
    recursion: Annotated[
        int | None,
        typer.Option(min=0, max=4, help="Levels of recursive calls at most.", rich_help_panel=READING),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0, max=256, help="Ray workers for a descent; 0: this process.", rich_help_panel=READING
        ),
    ] = 0,
    places_only: Annotated[
        bool, typer.Option("--places-only", help="Ask no model: places alone.", rich_help_panel=READING)
    ] = False,
    places: Annotated[
        int, typer.Option(min=1, max=100, help="Places to print.", rich_help_panel=options.RESULT)
    ] = 10,
    how: Annotated[
        bool,
        typer.Option("--how", help="Print how it was read, as a tree.", rich_help_panel=options.RESULT),
    ] = False,
    depth: options.Depth = None,
    model: options.Model = None,
    pull: options.Pull = False,
    endpoint: options.Endpoint = None,
    sandbox: options.SandboxKind = None,
    seed: options.Seed = None,
    config: options.Config = None,
    assignments: options.Assignments = None,
    as_json: options.AsJson = False,
) -> None:
    """Answer a question about repositories, folders, documents or logs of any length.

    The answer goes to stdout, with the places that it rests on; how it was read goes to a report.
    """
    from pipeline.cli.asking import Inquiry, answered, new_reading
    from pipeline.cli.inputs import read_issue, resolve_settings
    from pipeline.cli.interrupt import run_interruptibly
    from pipeline.cli.progress import watched

    text = read_issue(question)
    if not text.strip():
        raise InputError("the question is empty", hint="say what you want to know")
    inquiry = Inquiry(
        paths=tuple(paths),
        question=text,
        tier=tier.value,
        with_model=not places_only,
        recurrence_depth=depth or 0,
        num_workers=workers,
    )
    limits = {
        "num_calls": calls,
        "num_tokens": tokens,
        "wall_seconds": wall_seconds,
        "max_depth": recursion,
    }
    settings = resolve_settings(_flags(ctx, limits))
    if pull and not settings.endpoint.url:
        from pipeline.cli.compose import pull_model

        with watched() as emit:
            pull_model(settings, emit)
    folder = new_reading()
    with watched() as emit:
        answer, events = run_interruptibly(answered(inquiry, settings, folder, emit))
    if how:
        _tell_how(events)
    _tell(answer, folder, num_places=places, as_json=as_json)
    raise typer.Exit(ExitCode.SOLVED if answer.ending == "complete" else ExitCode.UNSOLVED)


def _flags(ctx: typer.Context, limits: dict[str, float | None]) -> Flags:
    from pipeline.cli.inputs import Flags

    given = [f"reading.{name}={value}" for name, value in limits.items() if value is not None]
    names = ("config", "model", "endpoint", "sandbox", "seed")
    values = {name: ctx.params[name] for name in names}
    return Flags(**values, assignments=(*(ctx.params["assignments"] or ()), *given))


def _tell_how(events: Sequence[Event]) -> None:
    from rich.console import Console

    from pipeline.account import branches_of, tree_of

    Console(stderr=True).print(tree_of(branches_of(events)))


def _tell(answer: Answer, folder: Path, *, num_places: int, as_json: bool) -> None:
    """Put the answer and its places on stdout, what else there is to say on stderr."""
    from dataclasses import asdict

    from pipeline.text import count, duration, printable_block

    if as_json:
        typer.echo(json.dumps({**asdict(answer), "folder": str(folder)}))
    else:
        if answer.text:
            typer.echo(printable_block(answer.text) if sys.stdout.isatty() else answer.text)
        cited = {int(number) for number in re.findall(r"\[(\d{1,4})\]", answer.text)}
        for number, span in enumerate(answer.spans, 1):
            if number <= num_places or number in cited:
                typer.echo(f"[{number}] {_place(span)}")
    for warning in answer.warnings:
        typer.echo(f"warning: {warning}", err=True)
    spend = answer.spend
    num_tokens = spend.num_prompt_tokens + spend.num_completion_tokens
    known = f" and {spend.num_cached_calls:,} known before" if spend.num_cached_calls else ""
    cost = f"{count(spend.num_calls, 'call')}{known}, {count(num_tokens, 'token')}, {duration(spend.seconds)}"
    report = folder / "report.html"
    typer.echo(f"{answer.ending}, tier {answer.tier}: {cost}; report: {report}", err=True)


def _place(span: Span) -> str:
    from pipeline.text import printable

    lines = f"{printable(span.path)}:{span.start_line}-{span.end_line}"
    return f"{lines} {printable(span.qualname)}" if span.qualname else lines
