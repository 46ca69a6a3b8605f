"""Exit codes, and the one place where an exception becomes a message and a code.

The codes are stable; scripts may rely on them.
"""

from __future__ import annotations

import enum
import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from model.exceptions import DepthError, LoopConfigError, ModelError
from pipeline.exceptions import (
    EnvironmentBrokenError,
    InputError,
    LimitReachedError,
    LoopwrightError,
    NothingToRepairError,
)
from pipeline.text import printable


class ExitCode(enum.IntEnum):
    """What the process's exit code says."""

    SOLVED = 0
    INTERNAL = 1
    INPUT = 2
    UNSOLVED = 3
    ENVIRONMENT = 4
    NOTHING_TO_REPAIR = 5
    INTERRUPTED = 130


# Told at the end of `loopwright --help`.
EXIT_CODES_HELP = """Exit codes:
0  solved, or the command did what it was asked
1  internal error: a fault of loopwright's own, its traceback kept in a file
2  bad input or usage
3  unsolved, or a limit was hit
4  environment broken: model, engine, sandbox or dependencies
5  nothing to repair: the tests already pass
130  interrupted; a run can be resumed
"""

_BRANCHES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (NothingToRepairError, ExitCode.NOTHING_TO_REPAIR),  # before InputError, of which it is one
    (InputError, ExitCode.INPUT),
    (EnvironmentBrokenError, ExitCode.ENVIRONMENT),
    (LimitReachedError, ExitCode.UNSOLVED),
    (DepthError, ExitCode.INPUT),
    (LoopConfigError, ExitCode.INPUT),
    (ModelError, ExitCode.ENVIRONMENT),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)
_MACHINE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the code that the error ends the process with."""
    for kind, code in _BRANCHES:
        if isinstance(error, kind):
            return code
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
        return ExitCode.ENVIRONMENT
    return ExitCode.INTERNAL


def describe(error: BaseException) -> tuple[str, str]:
    """Return the message and the hint that a user reads, each on one line of printable text."""
    hint = getattr(error, "hint", "")
    if isinstance(error, (LoopwrightError, ModelError)):
        return printable(str(error)), printable(hint)
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
        return printable(str(error)), "free some space, or set LOOPWRIGHT_HOME to a folder on another disk"
    if not isinstance(error, Exception):  # KeyboardInterrupt, or a cancelled task
        return "interrupted", ""
    kind = type(error).__name__
    return printable(f"internal error, {kind}: {error}"), "this is a fault of loopwright; please report it"


def report_error(error: BaseException, trace_folder: Path) -> ExitCode:
    """Say on stderr what went wrong and what to do, and return the exit code.

    An internal error leaves its traceback in `trace_folder`, because stderr gets one line only.
    """
    code = exit_code_of(error)
    message, hint = describe(error)
    if code is ExitCode.INTERNAL:
        message += f" (traceback: {_keep_trace(error, trace_folder)})"
    print(f"loopwright: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)
    return code


@contextmanager
def errors_become_exit_codes() -> Iterator[None]:
    """Turn every exception of a command into its message and exit code.

    Raises:
        typer.Exit: in place of the exception. What typer itself raises (usage errors, exits) passes through.
    """
    from pipeline.cli.home import home_root

    try:
        yield
    except KeyboardInterrupt as exc:
        print("loopwright: interrupted", file=sys.stderr)
        raise typer.Exit(ExitCode.INTERRUPTED) from exc
    except BrokenPipeError:  # the reader of our stdout left; typer ends quietly
        raise
    except Exception as exc:
        if type(exc).__module__.startswith("typer"):
            raise
        raise typer.Exit(report_error(exc, home_root())) from exc


def _keep_trace(error: BaseException, folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "error.txt"
        path.write_text("".join(traceback.format_exception(error)), errors="backslashreplace")
    except OSError as exc:
        return f"not kept, {exc}"
    return str(path)
