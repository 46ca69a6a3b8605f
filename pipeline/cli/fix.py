"""`loopwright fix`: one repository, one task, one patch on stdout."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options
from pipeline.cli.errors import ExitCode
from pipeline.exceptions import InputError, LoopwrightError

if TYPE_CHECKING:
    from pipeline.cli.ending import Ending
    from pipeline.cli.inputs import Flags
    from pipeline.config import Settings
    from pipeline.core import Task
    from pipeline.runs import RunFolder, RunRecord

_TASK = "The task"
_SEARCH = "The search"
_RESULT = "The result"


def fix(
    repo: Annotated[
        str | None, typer.Argument(help="Path or URL of a git repository.", show_default=False)
    ] = None,
    issue: Annotated[
        str | None,
        typer.Option(help="What is wrong: a text, a file, or - for stdin.", rich_help_panel=_TASK),
    ] = None,
    test_command: Annotated[
        str | None, typer.Option(help="How to run the tests: `python -m pytest`.", rich_help_panel=_TASK)
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="A test that must pass; repeatable. Else every failing one.",
            rich_help_panel=_TASK,
        ),
    ] = None,
    base_commit: Annotated[
        str | None,
        typer.Option(metavar="COMMIT", help="Start there, not at the working tree.", rich_help_panel=_TASK),
    ] = None,
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
        typer.Option("--show-config", help="Print the settings that hold, and end.", rich_help_panel=_SEARCH),
    ] = False,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply/--dry-run",
            help="Change the working tree, or only print the patch.",
            rich_help_panel=_RESULT,
        ),
    ] = False,
    as_json: options.AsJson = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN_ID", help="Continue a run that was stopped.", rich_help_panel=_RESULT),
    ] = None,
    run_id: Annotated[str, typer.Option(help="Name the run.", rich_help_panel=_RESULT)] = "",
) -> None:
    """Repair a repository: draft patches, test them in sandboxes, print one that passes.

    The patch goes to stdout, progress to stderr. Your working tree is never changed without --apply.
    """
    from pipeline.cli.inputs import Flags

    flags = Flags(
        config=config,
        depth=depth,
        max_depth=max_depth,
        candidates=candidates,
        rounds=rounds,
        model=model,
        endpoint=endpoint,
        sandbox=sandbox,
        seed=seed,
        wall_seconds=wall_seconds,
        assignments=tuple(assignments or ()),
    )
    if show_config:
        _print_config(flags)
        return
    request = _Request(
        repo, issue, test_command, tuple(test or ()), base_commit, resume, run_id, _Wishes(apply, pull)
    )
    raise typer.Exit(_told(request, flags, as_json=as_json))


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What is to be done besides the run itself."""

    applies: bool
    pulls: bool


@dataclass(frozen=True, slots=True)
class _Request:
    """What the user asks for, as typed."""

    repo: str | None
    issue: str | None
    test_command: str | None
    tests: tuple[str, ...]
    base_commit: str | None
    resume: str | None
    run_id: str
    wishes: _Wishes

    @property
    def names_a_task(self) -> bool:
        """Whether any part of a task is given."""
        return any((self.repo, self.issue, self.test_command, self.tests, self.base_commit, self.run_id))


def _told(request: _Request, flags: Flags, *, as_json: bool) -> ExitCode:
    """Do what is asked, put the result on stdout and the story on stderr, and return the exit code."""
    from pipeline.cli.ending import as_object, error_object, tell

    try:
        ending = _answer(request, flags)
    except Exception as exc:
        if as_json:
            typer.echo(json.dumps(error_object(exc)))
        raise
    if as_json:
        typer.echo(json.dumps(as_object(ending)))
    elif ending.record.patch is not None:
        typer.echo(ending.record.patch.diff, nl=False)
    tell(ending)
    return ending.exit_code


def _answer(request: _Request, flags: Flags) -> Ending:
    from pipeline.cli.inputs import Flags, make_task, read_issue, resolve_settings

    if request.resume is not None:
        if request.names_a_task or flags != Flags():
            raise InputError(
                "--resume takes the task and its settings from the run", hint="leave the rest out"
            )
        return _resume(request.resume, request.wishes)
    if request.repo is None:
        raise InputError("which repository?", hint="loopwright fix REPO, or --resume RUN_ID")
    settings = resolve_settings(flags)
    task = make_task(
        request.repo,
        settings=settings,
        statement=read_issue(request.issue) if request.issue else "",
        test_command=request.test_command,
        tests=request.tests,
        base_commit=request.base_commit,
    )
    return _start(task, settings, request.run_id, request.wishes)


def _print_config(flags: Flags) -> None:
    import yaml

    from pipeline.cli.inputs import resolve_settings

    typer.echo(yaml.safe_dump(resolve_settings(flags).model_dump(mode="json"), sort_keys=False), nl=False)


def _start(task: Task, settings: Settings, run_id: str, wishes: _Wishes) -> Ending:
    """Check what can be checked at once, make the run's folder, and run the task."""
    from pipeline.cli.compose import find_model, pull_model
    from pipeline.cli.execute import start_folder
    from pipeline.cli.progress import watched
    from pipeline.cli.run_store import create_run
    from pipeline.workspace.clone import is_url

    if wishes.applies and is_url(task.repo):
        raise InputError(
            "--apply needs a working tree, not a URL", hint="clone it, and give the clone's path"
        )
    if not settings.endpoint.url:
        if wishes.pulls:
            with watched() as emit:
                pull_model(settings, emit)
        find_model(settings)
    folder = create_run(run_id)
    start_folder(folder, task, settings)
    return _work(task, settings, folder, wishes)


def _resume(run_id: str, wishes: _Wishes) -> Ending:
    """Go on with a run; one that is solved already needs no engine."""
    from pipeline.cli.execute import resume_folder
    from pipeline.cli.run_store import find_run, load_run

    folder = find_run(run_id)
    task, settings = resume_folder(folder)
    with contextlib.suppress(InputError):  # no record yet: it was stopped at once
        record = load_run(folder)
        if record.status == "solved":
            return _ending(folder, record, None, wishes)
    return _work(task, settings, folder, wishes)


def _work(task: Task, settings: Settings, folder: RunFolder, wishes: _Wishes) -> Ending:
    from pipeline.cli.compose import composed
    from pipeline.cli.execute import execute
    from pipeline.cli.interrupt import run_interruptibly
    from pipeline.cli.progress import watched
    from pipeline.cli.run_store import working_on

    with working_on(folder):
        typer.echo(f"run {folder.run_id}", err=True)
        error: BaseException | None = None
        try:
            with watched() as emit:
                record = run_interruptibly(execute(task, settings, folder, emit, composed))
        except (Exception, KeyboardInterrupt) as exc:
            error = exc
            try:
                record = folder.load()
            except InputError:  # not even a record could be written
                raise exc from None
        return _ending(folder, record, error, wishes)


def _ending(folder: RunFolder, record: RunRecord, error: BaseException | None, wishes: _Wishes) -> Ending:
    """Write the report, apply the patch where that is wished, and return how it all ended."""
    from pipeline.cli.ending import Ending, apply_to_working_tree, write_report

    report = write_report(folder, record)
    applied = False
    if wishes.applies and record.patch is not None and error is None:
        try:
            apply_to_working_tree(folder, record)
            applied = True
        except LoopwrightError as exc:
            error = exc
    return Ending(folder=folder, record=record, error=error, report=report, applied=applied)
