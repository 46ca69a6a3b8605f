"""Turns what git and the operating system say into errors that a user can act on."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from pipeline.exceptions import EnvironmentBrokenError, InputError, LoopwrightError


def first_error(exc: Exception) -> str:
    """Return the first line that git itself wrote about its failure."""
    lines = re.findall(r"(?:error|fatal): (.*?)'?$", str(exc), flags=re.MULTILINE)
    return lines[0] if lines else str(exc).splitlines()[-1].strip()


def explained(exc: OSError, folder: Path) -> LoopwrightError:
    """Return the error to raise for a failure to read or write files under `folder`."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentBrokenError(f"the disk is full: {folder}", hint="free some space there")
    if isinstance(exc, FileExistsError):
        return InputError(
            f"the repository holds two files of one name: {_name(exc.filename2 or exc.filename)}"
        )
    if isinstance(exc, PermissionError):
        return InputError(f"{_name(exc.filename)} cannot be read or written", hint="check its permissions")
    return EnvironmentBrokenError(f"files under {folder} cannot be read or written: {exc}")


def _name(filename: str | bytes | None) -> str:
    return os.fsdecode(filename or "a file")
