"""Says whether failing tests have anything to do with an issue."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# What the text marks as code: `name`, name(), a_name, AName.
_CODE = re.compile(
    r"`([^`\n]{1,200})`|\b([A-Za-z_][\w.]{0,80})\(|\b(\w{1,40}_\w{1,40})\b|\b([A-Z][a-z]{1,40}[A-Z]\w{0,40})\b"
)
_MAX_READ_CHARS = 20_000
_WORD = re.compile(r"[A-Za-z_]\w*")
_MIN_CHARS = 3


def names_of_code(statement: str, defined: Collection[str]) -> frozenset[str]:
    """Return the names of the project that the issue writes as code."""
    texts = (part for match in _CODE.finditer(statement[:_MAX_READ_CHARS]) for part in match.groups() if part)
    words = {word for text in texts for word in _WORD.findall(text)}
    return frozenset(word for word in words & set(defined) if len(word) >= _MIN_CHARS)


def speaks_of(failures: Iterable[str], statement: str, defined: Collection[str]) -> bool:
    """Say whether any failing test, given as its source and traceback, speaks of what the issue names.

    An issue that names nothing of the project may be about anything, so about these tests too.
    """
    names = names_of_code(statement, defined)
    return not names or any(names & set(_WORD.findall(text)) for text in failures)
