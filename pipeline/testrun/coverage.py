"""Which tests reach which lines: one run under coverage, told compactly by a script in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.core import SandboxRequest, SandboxResult
from pipeline.testrun.request import COVERAGE

# coverage's own JSON names every test at every line; here a line has a number whose bits are the tests.
_SCRIPT = """
import json, os, subprocess, sys
REPORT = "coverage.json"
code = subprocess.call([sys.executable, *sys.argv[1:]])
try:
    from coverage import CoverageData
    data = CoverageData(os.environ["COVERAGE_FILE"])
    data.read()
    tests, files = {}, {}
    for path in data.measured_files():
        lines = {}
        for line, contexts in data.contexts_by_lineno(path).items():
            bits, at_import = 0, False
            for context in contexts:
                name = context.rpartition("|")[0]
                if name:
                    bits |= 1 << tests.setdefault(name, len(tests))
                else:
                    at_import = True
            lines[line] = ("-" if at_import else "") + format(bits, "x")
        files[os.path.relpath(path, "/workspace")] = lines
    with open("/results/" + REPORT, "w") as stream:
        json.dump({"tests": list(tests), "files": files}, stream)
except Exception as error:
    print("no coverage:", error, file=sys.stderr)
sys.exit(code)
"""
COVERAGE_OPTIONS = ("--cov=.", "--cov-context=test", "--cov-report=", "--cov-fail-under=0")
WITHOUT_ADDOPTS = ("-o", "addopts=")  # nothing on the command line undoes a --no-cov there


@dataclass(frozen=True, slots=True)
class CoverageMap:
    """Tests by the lines that they run. Lines count from 1."""

    tests: tuple[str, ...]  # node ids
    bits: Mapping[str, Mapping[int, int]]  # path -> line -> the tests, as bits
    imported: Mapping[str, frozenset[int]]  # path -> lines that run outside of any test

    def tests_at(self, path: str, lines: Iterable[int]) -> frozenset[str]:
        """Return the test functions, without parameters, that run one of the lines."""
        at_path, mask = self.bits.get(path, {}), 0
        for line in lines:
            mask |= at_path.get(line, 0)
        return frozenset(test.partition("[")[0] for i, test in enumerate(self.tests) if mask >> i & 1)

    def is_imported(self, path: str, lines: Iterable[int]) -> bool:
        """Say whether one of the lines also runs when nothing is tested: while a module is imported."""
        return not self.imported.get(path, frozenset()).isdisjoint(lines)


def under_coverage(request: SandboxRequest) -> SandboxRequest:
    """Return a request for pytest with COVERAGE_OPTIONS as one that also leaves the map of its coverage."""
    python, *rest = request.argv
    return replace(request, argv=(python, "-c", _SCRIPT, *rest))


def read_map(result: SandboxResult, paths: Collection[str]) -> CoverageMap | None:
    """Return what the script left, or None where that cannot be read; it comes from the tested process."""
    try:
        values = json.loads(result.collected[COVERAGE])
        tests = tuple(map(str, values["tests"]))
        files = {path: _lines(lines, len(tests)) for path, lines in values["files"].items() if path in paths}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return None
    return CoverageMap(
        tests=tests,
        bits={path: {line: bits for line, (bits, _) in lines.items()} for path, lines in files.items()},
        imported={
            path: frozenset(line for line, (_, at_import) in lines.items() if at_import)
            for path, lines in files.items()
        },
    )


def _lines(lines: Mapping[str, Any], num_tests: int) -> dict[int, tuple[int, bool]]:
    found = {}
    for line, text in lines.items():
        bits = int(text.removeprefix("-"), 16)
        if bits < 0 or bits >> num_tests:
            raise ValueError("a line has tests that there are not")
        found[int(line)] = (bits, text.startswith("-"))
    return found
