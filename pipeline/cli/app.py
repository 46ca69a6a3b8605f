"""The `loopwright` command: names its subcommands and imports each only when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline.cli.errors import EXIT_CODES_HELP, errors_become_exit_codes
from pipeline.exceptions import EnvironmentBrokenError


class _Entry(NamedTuple):
    target: str  # "module:attribute" of a function or of a typer application
    help: str


_COMMANDS = {
    "fix": _Entry(
        "pipeline.cli.fix:fix", "Repair a repository: draft patches, test them, return one that passes."
    ),
    "implement": _Entry(
        "pipeline.cli.implement:implement", "Write stubs and missing functions until their tests pass."
    ),
    "batch": _Entry(
        "pipeline.cli.batch:batch", "Repair many: run a file of tasks, several at once, and resume."
    ),
    "ask": _Entry("pipeline.cli.ask:ask", "Answer a question about repositories or texts of any length."),
    "runs": _Entry("pipeline.cli.runs:app", "List past runs and show one."),
    "compare": _Entry("pipeline.cli.compare:compare", "Compare two batches of the same tasks, in pairs."),
    "bench": _Entry(
        "pipeline.cli.bench:app", "Inject bugs into repositories, and measure how many are repaired."
    ),
    "model": _Entry("pipeline.cli.model_commands:app", "Fetch, list, verify and find models; plan for them."),
    "doctor": _Entry(
        "pipeline.cli.doctor:doctor", "Say what works on this machine, and how to mend what does not."
    ),
    "up": _Entry("pipeline.cli.cluster_commands:up", "Start a warm engine that later commands reuse."),
    "status": _Entry("pipeline.cli.cluster_commands:status", "Show the warm engine."),
    "down": _Entry("pipeline.cli.cluster_commands:down", "End the warm engine."),
    "policy": _Entry("pipeline.cli.policy_commands:app", "Show and feed what chooses the next round."),
    "sandbox": _Entry(
        "pipeline.cli.sandbox_commands:app", "Build and check the sandboxes that tests run in."
    ),
}


def load_command(name: str) -> Any:
    """Import a subcommand and return it as typer's command object.

    Raises:
        EnvironmentBrokenError: a package that the command needs is not installed.
    """
    module_name, attribute = _COMMANDS[name].target.split(":")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as exc:
        raise EnvironmentBrokenError(
            f"`loopwright {name}` needs the module {exc.name}, which is not installed",
            hint="install the engine's packages: pip install 'loopwright[cpu]' (or [gpu])",
        ) from exc
    command = typer.main.get_command(
        target if isinstance(target, typer.Typer) else _application(name, target)
    )
    command.name = name
    return command


def _application(name: str, function: Callable[..., Any]) -> typer.Typer:
    application = typer.Typer(add_completion=False)
    application.command(name)(function)
    return application


class _LazyGroup(TyperGroup):
    """Lists subcommands from the table above; imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        placeholders = {name: TyperCommand(name, help=entry.help) for name, entry in _COMMANDS.items()}
        super().__init__(**(attributes | {"commands": placeholders}))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name else command, rest

    def invoke(self, ctx: Any) -> Any:
        with errors_become_exit_codes():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EXIT_CODES_HELP,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"loopwright {version('loopwright')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Give it a repository and a failing test; it returns a patch that the tests accept.

    A looped coder model drafts, sandboxes test, and what the tests said goes into the next draft.
    Results go to stdout, progress to stderr.
    """
