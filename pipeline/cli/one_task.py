"""One task from the command line: what was typed becomes a run, and the run an ending that is told."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import typer

from pipeline.cli.errors import ExitCode
from pipeline.exceptions import InputError, LoopwrightError

if TYPE_CHECKING:
    from pipeline.cli.ending import Ending
    from pipeline.cli.inputs import Flags
    from pipeline.config import Settings
    from pipeline.core import Task
    from pipeline.runs import RunFolder, RunRecord


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to be done besides the run itself."""

    applies: bool
    pulls: bool
    with_test: bool = False  # the patch brings the test that was drafted from the issue


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asks for, as typed."""

    repo: str | None
    wishes: Wishes
    kind: Literal["fix", "implement"] = "fix"
    statement: str | None = None  # an issue or a specification: a text, a file, or - for stdin
    test_command: str | None = None
    tests: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    base_commit: str | None = None
    resume: str | None = None
    run_id: str = ""

    @property
    def names_a_task(self) -> bool:
        """Whether any part of a task is given."""
        return any((self.repo, self.statement, self.test_command, self.tests, self.base_commit, self.run_id))


def flags_of(ctx: typer.Context) -> Flags:
    """Return the options that change settings, which the commands declare under the same names."""
    from dataclasses import fields

    from pipeline.cli.inputs import Flags

    values = {field.name: ctx.params[field.name] for field in fields(Flags)}
    return Flags(**values | {"assignments": tuple(values["assignments"] or ())})


def run_and_tell(request: Request, flags: Flags, *, as_json: bool) -> ExitCode:
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
        typer.echo(ending.diff, nl=False)
    tell(ending)
    return ending.exit_code


def _answer(request: Request, flags: Flags) -> Ending:
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
        statement=read_issue(request.statement) if request.statement else "",
        test_command=request.test_command,
        tests=request.tests,
        base_commit=request.base_commit,
        functions=request.functions,
        kind=request.kind,
    )
    return _start(task, settings, request.run_id, request.wishes)


def _start(task: Task, settings: Settings, run_id: str, wishes: Wishes) -> Ending:
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


def _resume(run_id: str, wishes: Wishes) -> Ending:
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


def _work(task: Task, settings: Settings, folder: RunFolder, wishes: Wishes) -> Ending:
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


def _ending(folder: RunFolder, record: RunRecord, error: BaseException | None, wishes: Wishes) -> Ending:
    """Write the report, apply the patch where that is wished, and return how it all ended."""
    from pipeline.cli.ending import Ending, apply_to_working_tree, write_report

    report = write_report(folder, record)
    applied = False
    if wishes.applies and record.patch is not None and error is None:
        try:
            apply_to_working_tree(folder, record, with_test=wishes.with_test)
            applied = True
        except LoopwrightError as exc:
            error = exc
    return Ending(
        folder=folder,
        record=record,
        error=error,
        report=report,
        applied=applied,
        with_test=wishes.with_test,
    )
