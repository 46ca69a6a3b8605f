"""Read failing tests: the frames of a traceback, the lines that say what went wrong, the test's source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.context.symbols import Definition, definitions
from pipeline.core import TestCase
from pipeline.snapshot import Snapshot

# pytest prints "path.py:12: in name" or "path.py:12: ValueError"; Python 'File "path.py", line 12, in name'.
_PYTEST_FRAME = re.compile(r"^(?P<path>[^\s:][^:\n]*\.py):(?P<line>\d+): ", re.MULTILINE)
_PYTHON_FRAME = re.compile(r'^(?:E\s)?\s*File "(?P<path>[^"\n]+)", line (?P<line>\d+)', re.MULTILINE)
_TEST_FILE = re.compile(
    r"(^|/)(tests?|testing|docs?|examples?|benchmarks?)/"
    r"|(^|/)(test_[^/]*|[^/]*_test|conftest|setup)\.py$|^tests?\.py$"
)
_WORKSPACE = "/workspace/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a fault before anything is drafted."""

    failures: tuple[TestCase, ...]  # the failing target tests of the baseline
    covered: Mapping[str, frozenset[int]] = field(default_factory=dict)  # path -> lines that they ran
    # path -> line -> from 0 to 1, of covered lines: how much more failing than passing tests run it
    suspicion: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    statement: str = ""  # the text
    implements: bool = False  # the task is to write what is missing, not to repair what is there


def is_test_path(path: str) -> bool:
    """Tell whether a path holds tests, documentation or set-up, where no fault is looked for."""
    return _TEST_FILE.search(path) is not None


def frames(details: str, snapshot: Snapshot) -> tuple[tuple[str, int], ...]:
    """Return (path, line) of the traceback's frames inside the tree, outermost first."""
    found = [
        (match.start(), match["path"], int(match["line"]))
        for pattern in (_PYTEST_FRAME, _PYTHON_FRAME)
        for match in pattern.finditer(details)
    ]
    inside = frozenset(snapshot.paths)
    relative = [(path.removeprefix(_WORKSPACE).removeprefix("./"), line) for _, path, line in sorted(found)]
    return tuple(frame for frame in relative if frame[0] in inside)


def excerpt(case: TestCase, *, max_lines: int = 30) -> str:
    """Return the lines that matter: the failing statement, pytest's explanation, the locations."""
    lines = case.details.splitlines()
    telling = [line for line in lines if line.startswith(("E ", ">")) or _PYTEST_FRAME.match(line)]
    chosen = telling or [line for line in lines if line.strip()] or case.message.splitlines()
    if len(chosen) > max_lines:
        half = max_lines // 2
        chosen = [*chosen[:half], "...", *chosen[-half:]]
    return "\n".join(line[:300] for line in chosen)


def definition_of_test(test_id: str, snapshot: Snapshot) -> Definition | None:
    """Return where a test is defined, or None where its id names no function of the tree."""
    path, _, rest = test_id.partition("::")
    qualname = rest.partition("[")[0].replace("::", ".")
    if not qualname or path not in snapshot.paths:
        return None
    found = [d for d in definitions(path, snapshot.read_bytes(path)) if d.qualname == qualname]
    return found[-1] if found else None  # Python keeps the last of two definitions with one name
