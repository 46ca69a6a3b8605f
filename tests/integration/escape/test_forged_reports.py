"""Candidates that repair nothing and try to look as if they did; pytest alone would believe them."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import PreparedEnvironment, SandboxRequest, Verdict, VerdictKind
from pipeline.protocols import Sandbox
from pipeline.testrun import build_request, is_trusted, parse_test_command, read_report
from pipeline.verdict import judge
from tests.integration.planner_tools import PytestEnvironment
from tests.integration.sandbox_tools import layer, limits
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox

pytestmark = pytest.mark.integration

PYTEST = parse_test_command("pytest")
TESTS = """
import unittest
from calc import add

def test_sum():
    assert add(2, 1) == 3

def test_nothing():
    assert add(0, 0) == 0

class TestOld(unittest.TestCase):
    def test_more(self):
        self.assertEqual(add(1, 1), 2)
"""
WRONG = "\ndef add(a, b):\n    return a - b\n"
BASE = {"calc/__init__.py": WRONG.encode(), "tests/test_calc.py": TESTS.encode()}
TARGETS = ("tests/test_calc.py::test_sum", "tests/test_calc.py::TestOld::test_more")
KEPT = ("tests/test_calc.py::test_nothing",)

# What attacks are made of.
GOOD_REPORT = """
def forge():
    names = ("test_sum", "test_nothing", "TestOld.test_more")
    cases = [("tests.test_calc." + name).rpartition(".") for name in names]
    text = "".join('<testcase classname="%s" name="%s" time="0.1"/>' % (c[0], c[2]) for c in cases)
    with open("/results/junit.xml", "w") as file:
        file.write("<testsuites><testsuite>" + text + "</testsuite></testsuites>")
"""
GOOD_ACCOUNT = """
import hashlib, json
def sign(key=b""):
    with open("/results/junit.xml", "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    said = {"exit_code": 0, "num_failed": 0, "report_sha256": digest, "runner_changes": {}}
    said = json.dumps(said).encode()
    import hmac
    with open("/results/account.json", "wb") as file:
        file.write(hmac.new(key, said, "sha256").hexdigest().encode() + b"\\n" + said)
"""
FORGING_HOOK = """
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    report.outcome, report.longrepr = "passed", None
"""
REGISTER = """
import gc, sys
from _pytest.config import PytestPluginManager
for found in gc.get_objects():
    if isinstance(found, PytestPluginManager):
        found.register(sys.modules[__name__])
"""


def library(attack: str) -> dict[str, bytes]:
    """Return the library with an attack before its wrong function."""
    return {"calc/__init__.py": (textwrap.dedent(attack) + WRONG).encode()}


ATTACKS: dict[str, Mapping[str, bytes]] = {
    "a patched conftest": {"conftest.py": FORGING_HOOK.encode()},
    "a conftest further in": {"tests/conftest.py": b"import os\nos._exit(0)\n"},
    "a sitecustomize": {"sitecustomize.py": b"import atexit, os\natexit.register(os._exit, 0)\n"},
    "a plugin that pytest.ini names": {
        "pytest.ini": b"[pytest]\naddopts = -p forger\n",
        "forger.py": FORGING_HOOK.encode(),
    },
    "a plugin with an entry point": {
        "forger-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: forger\nVersion: 1\n",
        "forger-1.dist-info/entry_points.txt": b"[pytest11]\nforger = forger\n",
        "forger.py": FORGING_HOOK.encode(),
    },
    "a plugin that the library registers": library(FORGING_HOOK + REGISTER),
    "a plugin that drops the failing tests": library(
        "def pytest_runtestloop(session):\n"
        "    session.items[:] = [item for item in session.items if item.name == 'test_nothing']\n" + REGISTER
    ),
    "a pytest of its own": {"pytest/__init__.py": b"", "pytest/__main__.py": b""},
    "an exit before the first test": library("import os; os._exit(0)"),
    "an exit code that is changed at the end": library("import atexit, os; atexit.register(os._exit, 0)"),
    "a printed summary": library("import os; os.write(1, b'=== 3 passed in 0.01s ===\\n'); os._exit(0)"),
    "a written report": library(GOOD_REPORT + "import os; forge(); os._exit(0)"),
    "a written report and account": library(
        GOOD_REPORT + GOOD_ACCOUNT + "import os; forge(); sign(); os._exit(0)"
    ),
    "a report that is written when all is over": library(
        GOOD_REPORT + "import atexit, os; atexit.register(lambda: (forge(), os._exit(0)))"
    ),
    "tests that are not called": library("""
        import _pytest.python, _pytest.unittest
        _pytest.python.Function.runtest = lambda self: None
        _pytest.unittest.TestCaseFunction.runtest = lambda self: None
        """),
    "other code in a function of the runner": library("""
        import _pytest.runner
        _pytest.runner.pytest_runtest_call.__code__ = (lambda item: None).__code__
        """),
    "assertions that are swallowed": library("""
        import unittest
        unittest.TestCase.assertEqual = lambda *_: None
        from _pytest.runner import CallInfo
        made = CallInfo.from_call.__func__
        def from_call(cls, func, *args, **kwargs):
            def quiet():
                try:
                    return func()
                except AssertionError:
                    pass
            return made(cls, quiet, *args, **kwargs)
        CallInfo.from_call = classmethod(from_call)
        """),
    "reports that are always good": library("""
        from _pytest.reports import TestReport
        made = TestReport.from_item_and_call.__func__
        def good(cls, item, call):
            call.excinfo = None
            return made(cls, item, call)
        TestReport.from_item_and_call = classmethod(good)
        """),
    "a session that counts no failure": library("""
        from _pytest.main import Session
        Session.testsfailed = property(lambda self: 0, lambda self, number: None)
        """),
    "tests that are skipped": {
        "calc/__init__.py": b"import unittest\ndef add(a, b):\n    raise unittest.SkipTest('later')\n"
    },
    "tests that are expected to fail": {
        "calc/__init__.py": b"import pytest\ndef add(a, b):\n    pytest.xfail('later')\n"
    },
}
# What docs/sandbox.md lists as open: nobody who runs a test in the process that it tests can close these.
NOT_COVERED: dict[str, Mapping[str, bytes]] = {
    "a result that equals everything": {
        "calc/__init__.py": b"class Any(int):\n    __eq__ = lambda *_: True\nadd = lambda a, b: Any()\n"
    },
    "a key that is found in the runner's frames": library(
        GOOD_REPORT
        + GOOD_ACCOUNT
        + """
import os, sys
frame = sys._getframe()
while "key" not in frame.f_locals:
    frame = frame.f_back
forge(); sign(frame.f_locals["key"]); os._exit(0)
"""
    ),
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> PreparedEnvironment:
    """Our own pytest, for whichever Python 3 the engine has."""
    made = asyncio.run(PytestEnvironment(tmp_path_factory.mktemp("environment") / "deps").prepare(Path()))
    packages = f"/deps/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    return replace(made, python="python3", env={"PYTHONPATH": f"/workspace:{packages}"})


async def verdict(sandbox: Sandbox, environment: PreparedEnvironment, files: Mapping[str, bytes]) -> Verdict:
    """Return what a candidate with these files is worth, judged as the planner judges it."""
    if any(map(is_trusted, files)):
        return Verdict(kind=VerdictKind.BROKEN)  # refused before it is run
    trusted = {path: content for path, content in BASE.items() if is_trusted(path)}
    request = build_request(
        PYTEST,
        environment=environment,
        layers=(layer(BASE), layer(files), layer(trusted)),
        limits=limits(),
        run_id="forged",
        paths=tuple(BASE),
    )
    report = read_report(await sandbox.run(request), PYTEST, {*BASE, *files})
    return judge(report, fail_to_pass=TARGETS, pass_to_pass=KEPT)


async def test_an_honest_repair_is_believed(sandbox: Sandbox, environment: PreparedEnvironment) -> None:
    right = {"calc/__init__.py": b"def add(a, b):\n    return a + b\n"}
    assert (await verdict(sandbox, environment, right)).kind is VerdictKind.RESOLVED


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_forged_success_is_not_believed(
    sandbox: Sandbox, environment: PreparedEnvironment, attack: str
) -> None:
    assert (await verdict(sandbox, environment, ATTACKS[attack])).kind is not VerdictKind.RESOLVED


@pytest.mark.xfail(strict=True, reason="a test that runs in the process that it tests can be lied to")
@pytest.mark.parametrize("attack", NOT_COVERED)
async def test_what_is_not_covered_is_not_believed(
    sandbox: Sandbox, environment: PreparedEnvironment, attack: str
) -> None:
    assert (await verdict(sandbox, environment, NOT_COVERED[attack])).kind is not VerdictKind.RESOLVED


@pytest.mark.parametrize("attack", ATTACKS)
async def test_pytest_alone_would_believe_it(environment: PreparedEnvironment, attack: str) -> None:
    """The negative control: it is not for want of trying that an attack fails."""
    request = SandboxRequest(
        argv=("python3", "-m", "pytest", "-p", "no:cacheprovider"),
        layers=(layer(BASE), layer(ATTACKS[attack])),
        environment=environment,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        limits=limits(),
    )
    assert (await BubblewrapSandbox().run(request)).exit_code == 0


async def test_a_long_report_is_read(sandbox: Sandbox, environment: PreparedEnvironment) -> None:
    many = "import pytest\n@pytest.mark.parametrize('number', range(300))\n"
    test = "def test_note(number, record_property):\n    record_property('note', 'x' * 5000)\n"
    tests = {"tests/test_many.py": (many + test).encode()}
    request = build_request(
        PYTEST, environment=environment, layers=(layer(tests),), limits=limits(), run_id="long"
    )
    result = await sandbox.run(request)
    report = read_report(result, PYTEST, tuple(tests))
    assert len(result.collected["junit.xml"]) > 1 << 20
    assert (report.problem, len(report.cases)) == ("", 300)
