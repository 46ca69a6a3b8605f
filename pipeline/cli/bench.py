"""`loopwright bench`: make tasks of injected bugs, build their repositories, and measure on them."""

from __future__ import annotations

import asyncio
import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.exceptions import InputError, LoopwrightError
from pipeline.text import printable

if TYPE_CHECKING:
    from pipeline.bench.make import Options, Tools
    from pipeline.bench.recipe import Origin
    from pipeline.bench.recipe import Split as Part
    from pipeline.bench.sources import Library
    from pipeline.bench.workshop import Account
    from pipeline.config import Settings
    from pipeline.core import Task

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Benchmarks of your own repositories.")

Work = Annotated[
    Path | None,
    typer.Option(
        help="Archives, trees and finished test runs; may be removed afterwards. Default: OUT.work."
    ),
]


class Statement(enum.StrEnum):
    """What a task says in words."""

    NONE = "none"
    SYMPTOM = "symptom"


class Kind(enum.StrEnum):
    """Which sandbox."""

    AUTO = "auto"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"


class Split(enum.StrEnum):
    """Which part of a benchmark."""

    DEV = "dev"
    HELD_OUT = "held_out"
    ALL = "all"


@app.command()
def make(
    sources: Annotated[
        list[str], typer.Argument(help="Git repositories (path or URL, at HEAD), NAME==VERSION, or sdists.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The task file to write.")],
    num_tasks: Annotated[int, typer.Option(min=1, help="In all, at most.")] = 100,
    per_repo: Annotated[int, typer.Option(min=1, help="Of each source, at most.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the choice of bugs and of the split.")] = 0,
    multi_share: Annotated[
        float, typer.Option(min=0, max=1, help="How many of the tasks have two or three sites.")
    ] = 0.2,
    held_out_share: Annotated[
        float, typer.Option(min=0, max=1, help="How many of the repositories are held out.")
    ] = 0.5,
    dev: Annotated[list[str] | None, typer.Option(help="A project that is for development.")] = None,
    held_out: Annotated[list[str] | None, typer.Option(help="A project that is held out.")] = None,
    test_command: Annotated[
        str, typer.Option(help="Of every source; it must run pytest.")
    ] = "python -m pytest",
    statement: Annotated[
        Statement, typer.Option(help="What tasks say in words: nothing, or which tests fail and how.")
    ] = Statement.NONE,
    sandbox: Annotated[Kind, typer.Option(help="Where tests run.")] = Kind.AUTO,
    work: Work = None,
) -> None:
    """Inject bugs into repositories; keep those that their tests notice, the same way each time.

    Writes OUT (a task a line, with the recipe of its tree) and OUT.account.json. What was interrupted goes on
    where it was.
    """
    from pipeline.bench.account import account_json, account_table
    from pipeline.bench.build import write_tasks
    from pipeline.bench.make import Options
    from pipeline.bench.workshop import Search
    from pipeline.config import load_settings

    work = work or out.with_name(out.name + ".work")
    each = min(per_repo, -(-num_tasks // len(sources)))
    settings = load_settings(overrides={"sandbox": {"kind": sandbox.value}})
    options = Options(
        search=Search(
            num_tasks=each, seed=seed, multi_share=multi_share, num_parallel=settings.sandbox.num_parallel
        ),
        test_command=test_command,
        statement=statement.value,
    )
    library = _library(work)
    origins, failures = _resolved(library, sources)
    if not origins:
        raise next(iter(failures.values()))
    splits = _splits(
        origins, held_out_share=held_out_share, seed=seed, dev=dev or (), held_out=held_out or ()
    )
    tasks, accounts, more = asyncio.run(_make(origins, splits, library, work, options, settings))
    failures |= more
    if not tasks:
        raise next(iter(failures.values()))
    tasks = _at_most(tasks, num_tasks)
    write_tasks(tasks, out)
    out.with_name(out.name + ".account.json").write_text(account_json(accounts, tasks), "utf-8")
    typer.echo(account_table(accounts, tasks))
    _say(f"{len(tasks)} tasks in {out}")
    for name, error in failures.items():
        _say(f"left out: {name}: {error}" + (f" (hint: {error.hint})" if error.hint else ""))
    if failures:
        raise next(iter(failures.values()))


@app.command()
def build(
    tasks: Annotated[Path, typer.Argument(help="A file of `bench make`.")],
    out: Annotated[Path, typer.Option("--out", help="Where the repositories go.")],
    sdists: Annotated[
        Path | None, typer.Option(help="A folder of archives that no index has; default: OUT.work/sdists.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Run each task's tests, in a sandbox.")] = False,
    sandbox: Annotated[Kind, typer.Option(help="Where they run.")] = Kind.AUTO,
) -> None:
    """Make the repositories of a task file: one commit each, checked against their recipes.

    Writes OUT/tasks.jsonl, which `loopwright batch` reads. What is built already is kept. With --verify the
    exit code is 3 where a task is not what it claims on this machine.
    """
    from pipeline.bench.build import build_tasks, read_tasks, write_tasks

    library = _library(out.with_name(out.name + ".work"), sdists)
    built = build_tasks(read_tasks(tasks), out, library, _say)
    write_tasks(built, out / "tasks.jsonl")
    typer.echo(str(out / "tasks.jsonl"))
    if verify and asyncio.run(_num_unsound(built, sandbox)):
        raise typer.Exit(3)


@app.command()
def run(
    tasks: Annotated[Path, typer.Argument(help="A file of `bench make`.")],
    out: Annotated[Path, typer.Option("--out", help="Repositories, a batch for each variant, the report.")],
    plan: Annotated[
        Path | None,
        typer.Option(
            help="YAML: design (one_at_a_time, grid), axes, more variants by name, settings of all."
        ),
    ] = None,
    axes: Annotated[
        list[str] | None,
        typer.Option(
            "--axis",
            metavar="NAME=VALUE,...",
            help="What is varied, the baseline's value first: depth, feedback, context, strategy, "
            "decoding, localisation, model, candidates, suspects, temperature, seed, tests. Repeatable.",
        ),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="Every combination, and not one change at a time.")
    ] = False,
    split: Annotated[Split, typer.Option(help="Which part of the tasks.")] = Split.DEV,
    config: Annotated[Path | None, typer.Option(help="Settings of all variants, as YAML.")] = None,
    plots: Annotated[bool, typer.Option(help="Draw the curves; needs matplotlib.")] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="Tasks at once, as `batch` takes it.")] = None,
    sdists: Annotated[
        Path | None, typer.Option(help="A folder of archives that no index has; default: OUT.work/sdists.")
    ] = None,
) -> None:
    """Run variants of the search over a benchmark, and report what each part is worth.

    Each variant is a batch in OUT/variants; the same command goes on where it was. The report goes to stdout,
    and with its plots to OUT.
    """
    from pipeline.bench.build import read_tasks
    from pipeline.bench.plots import require_matplotlib, write_plots
    from pipeline.bench.run import Bench
    from pipeline.cli.bench_run import batch_command, conditions, planned, selected
    from pipeline.cli.bench_score import patch_scorer

    if plots:
        require_matplotlib()
    chosen = selected(read_tasks(tasks), split.value)
    bench = Bench(
        tasks=chosen,
        plan=planned(plan, axes or [], config, is_grid=grid),
        out=out,
        library=_library(out.with_name(out.name + ".work"), sdists),
        run_batch=batch_command(workers),
        score=patch_scorer(out.with_name(out.name + ".work") / "ledger", _say),
        conditions=conditions(tasks, chosen, split.value),
        say=_say,
    )
    measured = bench.run()
    if plots:
        write_plots(measured, out)
    typer.echo((out / "report.md").read_text("utf-8"), nl=False)


@app.command()
def score(
    tasks: Annotated[
        Path,
        typer.Argument(help="A file of tasks as `batch` takes it, such as tasks.jsonl of `bench build`."),
    ],
    predictions: Annotated[
        Path, typer.Argument(help="Patches as SWE-bench takes them, such as predictions.jsonl of a batch.")
    ],
    config: Annotated[Path | None, typer.Option(help="Settings, as YAML: limits, sandbox.")] = None,
    sandbox: Annotated[Kind | None, typer.Option(help="Where tests run.", show_default=False)] = None,
) -> None:
    """Judge patches that are there already, each by all tests of its task.

    One JSON object a patch goes to stdout, their count to stderr. What a patch does to tests, or to what
    configures them, is undone first.
    """
    from pipeline.cli.bench_score import score_file

    overrides = {"sandbox": {"kind": sandbox.value}} if sandbox else {}
    score_file(tasks, predictions, config, overrides, _say)


@app.command()
def operators() -> None:
    """List the kinds of bugs that are injected."""
    from pipeline.bench.operators import OPERATORS

    width = max(map(len, OPERATORS))
    for operator in OPERATORS.values():
        typer.echo(f"{operator.name:<{width}}  {operator.description}")


async def _make(
    origins: list[Origin],
    splits: dict[str, Part],
    library: Library,
    work: Path,
    options: Options,
    settings: Settings,
) -> tuple[list[Task], list[Account], dict[str, LoopwrightError]]:
    """Return the tasks and the account of every source, and the errors of those that cannot be used."""
    from pipeline.bench.make import make_tasks

    tools = await _tools(library, work, settings)
    tasks: list[Task] = []
    accounts: list[Account] = []
    failures: dict[str, LoopwrightError] = {}
    for origin in origins:
        try:
            made, account = await make_tasks(origin, splits[origin.project], tools, options, _say)
        except LoopwrightError as exc:
            _say(f"{origin.project}: {exc}")
            failures[origin.project] = exc
            continue
        tasks += made
        accounts.append(account)
    return tasks, accounts, failures


async def _tools(library: Library, work: Path, settings: Settings) -> Tools:
    from pipeline.bench.make import Tools
    from pipeline.cli.bench_score import quiet_edges

    runner, environments = await quiet_edges(settings, _say)
    return Tools(library=library, sandbox=runner, environments=environments, ledger=work / "ledger")


async def _num_unsound(tasks: list[Task], sandbox: Kind) -> int:
    """Run every task's tests, say what is wrong, and return with how many something is."""
    from pipeline.bench.verify import find_problems
    from pipeline.cli.bench_score import quiet_edges
    from pipeline.config import load_settings

    edges = await quiet_edges(load_settings(overrides={"sandbox": {"kind": sandbox.value}}), _say)
    num_unsound = 0
    for task in tasks:
        problems = await find_problems(task, *edges)
        num_unsound += bool(problems)
        _say(f"{task.task_id}: {'; '.join(problems[:3]) or 'sound'}")
    _say(f"{len(tasks) - num_unsound} of {len(tasks)} tasks are sound")
    return num_unsound


def _library(work: Path, sdists: Path | None = None) -> Library:
    from pipeline.bench.sdist import Index
    from pipeline.bench.sources import Library
    from pipeline.cli.home import clones_root

    return Library(
        folder=work.absolute(), sdists=sdists or work / "sdists", clone_cache=clones_root(), index=Index()
    )


def _resolved(library: Library, specs: list[str]) -> tuple[list[Origin], dict[str, LoopwrightError]]:
    origins: dict[str, Origin] = {}
    failures: dict[str, LoopwrightError] = {}
    for spec in specs:
        try:
            origin = library.resolve(spec)
            if origin.project in origins:
                raise InputError(f"{origin.project} is given twice: a project is one source")
        except LoopwrightError as exc:
            failures[spec] = exc
        else:
            origins[origin.project] = origin
    return list(origins.values()), failures


def _splits(origins: list[Origin], **options: object) -> dict[str, Part]:
    from pipeline.bench.split import split_of

    splits = {origin.project: split_of(origin.project, **options) for origin in origins}  # type: ignore[arg-type]
    for part in ("dev", "held_out"):
        names = sorted(name for name, split in splits.items() if split == part)
        _say(f"{part.replace('_', ' ')}: {', '.join(names) or 'no repository'}")
    return splits


def _at_most(tasks: list[Task], num: int) -> list[Task]:
    """Return so many tasks, taken from all sources in turn, in the order in which they were made."""
    turns: dict[str, int] = {}
    ranked = []
    for i, task in enumerate(tasks):
        project = str(task.metadata["recipe"]["source"]["project"])
        turns[project] = turns.get(project, 0) + 1
        ranked.append((turns[project], i))
    return [tasks[i] for i in sorted(i for _, i in sorted(ranked)[:num])]


def _say(line: str) -> None:
    print(printable(line, 2000), file=sys.stderr, flush=True)
