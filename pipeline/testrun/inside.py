"""Runs pytest inside a sandbox, keeps its own account of what happened, and signs it.

The target's interpreter is given this source (`python -c`), so it stands alone: Python 3.8, any pytest. The
runner is imported before anything of the tree can be, so no `pytest.py` there is taken for it; and what a
run changes in the runner is told, since such a run's outcomes mean something else. Code that is written
against this very file can still find the key in memory: docs/sandbox.md says what that leaves open.
"""

from __future__ import annotations

import os
import sys

HERE = os.getcwd()
AT_START, SEARCH_PATH = frozenset(sys.modules), list(sys.path)
if sys.argv[1:2] == ["installed"]:  # "tree": the runner, or what it needs, is the tree itself
    sys.path[:] = [path for path in sys.path if path and not (path + "/").startswith(HERE + "/")]

import builtins  # noqa: E402 - not before the tree is off the path
import contextlib  # noqa: E402
import hashlib  # noqa: E402
import hmac  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import types  # noqa: E402
from typing import Any  # noqa: E402

RESULTS = "/results"
REPORT, ACCOUNT = "junit.xml", "account.json"
# Who changes these changes what an outcome means.
RUNNER = (
    "_pytest.assertion.rewrite",
    "_pytest.junitxml",
    "_pytest.main",
    "_pytest.python",
    "_pytest.python_api",
    "_pytest.raises",
    "_pytest.reports",
    "_pytest.runner",
    "_pytest.unittest",
    "pluggy._callers",
    "pluggy._hooks",
    "pluggy._manager",
    "unittest.case",
)
HOOKS = (
    "pytest_collection_modifyitems",
    "pytest_make_collect_report",
    "pytest_pycollect_makeitem",
    "pytest_pyfunc_call",
    "pytest_runtest_call",
    "pytest_runtest_logreport",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_runtestloop",
    "pytest_sessionfinish",
)


class Account:
    """A plugin that counts failures, and knows who else takes part in the run."""

    def __init__(self) -> None:
        self.num_failed = 0
        self.manager: Any = None

    def pytest_configure(self, config: Any) -> None:
        """Keep what knows the plugins."""
        self.manager = config.pluginmanager

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test that failed."""
        self.num_failed += report.failed

    def pytest_collectreport(self, report: Any) -> None:
        """Count a file that could not be collected."""
        self.num_failed += report.failed

    def taking_part(self) -> dict[str, str]:
        """Return what of the tree, or of no file, takes part in running the tests, by what it does there."""
        found = {}
        for name in HOOKS if self.manager else ():
            for implementation in getattr(self.manager.hook, name).get_hookimpls():
                origin = origin_of(implementation.function)
                if origin and implementation.plugin is not self:
                    found[name + " of " + origin] = origin
        return found


def runner_parts() -> dict[str, Any]:
    """Return the functions and classes that the runner is made of, by name."""
    found = {"builtins." + name: value for name, value in vars(builtins).items()}
    for name in RUNNER:
        module = sys.modules.get(name)
        for key, value in list(vars(module).items()) if module else ():
            found[name + "." + key] = value
            if isinstance(value, type) and value.__module__ == name:
                found.update((name + "." + key + "." + part, it) for part, it in list(vars(value).items()))
    kinds = (classmethod, staticmethod, property)
    return {name: value for name, value in found.items() if callable(value) or isinstance(value, kinds)}


def identity(value: Any) -> tuple[Any, int]:
    """Return what tells a thing from another: its code where it has some, for a function can be given other.

    The thing comes along, so that its id stays its own.
    """
    return value, id(getattr(value, "__code__", value))


def origin_of(value: Any) -> str:
    """Return the file of the tree that a thing's code is in, relative to the tree; "" for one elsewhere."""
    value = getattr(value, "__func__", value)
    if isinstance(value, types.FunctionType):
        path = value.__code__.co_filename
    else:
        kind = value if isinstance(value, type) else type(value)
        path = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    if path.startswith(HERE + "/"):
        return path[len(HERE) + 1 :]
    return "" if os.path.isfile(path) else path  # "<string>"


def load_runner() -> Any:
    """Import pytest, and all of it that a run can change; return it."""
    import pytest

    for name in RUNNER:
        with contextlib.suppress(ImportError):  # this pytest has it elsewhere
            importlib.import_module(name)
    return pytest


def give_back_the_path() -> None:
    """Have the tests import the tree first, as `python -m pytest` does, also where the runner came before."""
    outside = sys.path[:]
    sys.path[:] = [HERE, *filter(None, SEARCH_PATH)]
    tree = [path for path in sys.path if path not in outside]
    for name in {name.partition(".")[0] for name in sys.modules if name not in AT_START}:
        files = [os.path.join(path, name + end) for path in tree for end in (".py", "/__init__.py")]
        if name not in ("pytest", "_pytest") and any(map(os.path.isfile, files)):
            for loaded in [loaded for loaded in sys.modules if (loaded + ".").startswith(name + ".")]:
                del sys.modules[loaded]  # the runner keeps what it holds


def write(key: bytes, account: dict[str, Any]) -> None:
    """Leave the account behind its signature; it names the report by its hash."""
    try:
        with open(os.path.join(RESULTS, REPORT), "rb") as file:
            account["report_sha256"] = hashlib.sha256(file.read()).hexdigest()
    except OSError:
        account["report_sha256"] = ""  # there is none
    text = json.dumps(account).encode()
    with open(os.path.join(RESULTS, ACCOUNT), "wb") as file:
        file.write(hmac.new(key, text, "sha256").hexdigest().encode() + b"\n" + text)


def main() -> int:
    """Run pytest with the arguments after the first; return its exit code."""
    key = os.read(0, 4096).strip()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    pytest, account = load_runner(), Account()
    before = {name: identity(value) for name, value in runner_parts().items()}
    if sys.argv[1] == "installed":
        give_back_the_path()
    sys.argv = [pytest.__file__, *sys.argv[2:]]
    code = int(pytest.main(sys.argv[1:], plugins=[account]))
    changes = {
        name: origin_of(value)
        for name, value in runner_parts().items()
        if name in before and before[name][1] != identity(value)[1]
    }
    changes.update(account.taking_part())
    write(key, {"exit_code": code, "num_failed": account.num_failed, "runner_changes": changes})
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
