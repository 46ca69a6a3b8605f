"""What a suite says of a mutant is read strictly, and mutations are chosen fairly and always alike."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.bench.candidates import Reached, in_fair_order, load_sources, quotas_for, reached
from pipeline.bench.harness import Harness
from pipeline.bench.mutation import mutations
from pipeline.bench.source import Edit, Source
from pipeline.bench.verify import find_problems
from pipeline.bench.workshop import fits
from pipeline.core import Outcome, PreparedEnvironment, SandboxRequest, SandboxResult, Task
from pipeline.exceptions import InputError, PrepareError, SandboxError
from pipeline.snapshot import Snapshot
from pipeline.testing import RecordingSandbox
from pipeline.testrun import read_map
from tests.unit.junit import PASSED, pytest_result

FILES = {
    "lib.py": "LIMIT = 1\n\n\ndef f(a, b):\n    return a < b\n\n\ndef g(a, b):\n    return a + b\n",
    "unread.py": "def h(a):\n    return a < 1\n",
    "tests/test_lib.py": "import lib\n",
    "tests/test_more.py": "import lib\n",
}
F, F2, G = "tests/test_lib.py::test_f[a]", "tests/test_lib.py::test_f[b]", "tests/test_lib.py::test_g"
ALL = {F: PASSED, F2: PASSED, G: PASSED}
COVERAGE = {
    "tests": ["tests/test_lib.py::test_f", "tests/test_lib.py::test_g"],
    "files": {"lib.py": {"1": "-0", "4": "-0", "5": "1", "8": "-0", "9": "2"}, "/etc/passwd": {"1": "1"}},
}
ENVIRONMENT = PreparedEnvironment(environment_id="e", python="python3", mounts=())


def covered(result: SandboxResult, values=COVERAGE) -> SandboxResult:
    return replace(result, collected={**result.collected, "coverage.json": json.dumps(values).encode()})


def tree(folder: Path) -> Snapshot:
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return Snapshot(folder, "")


def harness(tmp_path: Path, respond: Callable[[SandboxRequest], SandboxResult], command="pytest") -> Harness:
    sandbox = RecordingSandbox(respond)
    return Harness(
        tree(tmp_path / "tree"), ENVIRONMENT, sandbox, test_command=command, ledger=tmp_path / "ledger"
    )


def suite(**results: SandboxResult) -> Callable[[SandboxRequest], SandboxResult]:
    """A sandbox that answers by the name of the run: base, covered, first, second."""
    known = {"base": pytest_result(ALL), "covered": covered(pytest_result(ALL)), **results}
    return lambda request: known[request.run_id.removeprefix("bench-")]


async def noticed(tmp_path, tests=("tests/test_lib.py::test_f",), **results):
    made = harness(tmp_path, suite(**results))
    return await made.try_mutant(await made.base(), {"lib.py": b"x"}, tests)


async def test_a_mutant_is_killed_where_a_test_fails_twice(tmp_path):
    broken = pytest_result({**ALL, F: "AssertionError: assert 1"})
    found = await noticed(tmp_path, first=pytest_result({F: "AssertionError: x", F2: PASSED}), second=broken)
    assert (found.verdict, found.failing, found.passing) == ("killed", (F,), (F2, G))
    assert found.symptom == "AssertionError: x"


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (pytest_result({F: PASSED, F2: PASSED}), None, "survived"),
        (pytest_result({F: "E: x", F2: PASSED}), pytest_result(ALL), "flaky"),
        (pytest_result({F: "E: x", F2: PASSED}), pytest_result({**ALL, F2: "E: x"}), "flaky"),
        (
            pytest_result({F: "E: x", F2: PASSED}),
            pytest_result({F: "E: x", G: PASSED}),
            "flaky",
        ),  # one is gone
        (pytest_result({F: PASSED}), pytest_result({F: PASSED, G: PASSED}), "flaky"),
        (replace(pytest_result({}), outcome=Outcome.TIMED_OUT, exit_code=None), None, "hangs"),
        (replace(pytest_result({}), outcome=Outcome.OUT_OF_MEMORY, exit_code=None), None, "hangs"),
        (pytest_result({"tests/test_lib.py": "ImportError: x"}), None, "trivial"),
        (replace(pytest_result({}), exit_code=4), None, "trivial"),
        (
            pytest_result({F: "E: x", F2: "E: x"}),
            pytest_result(dict.fromkeys(ALL, "E: x")),
            "flaky",  # in the whole file more fails than alone
        ),
    ],
)
async def test_a_mutant_that_proves_nothing_is_dropped_for_its_reason(tmp_path, first, second, verdict):
    found = await noticed(tmp_path, first=first, second=second)
    assert (found.verdict, found.failing) == (verdict, ())


async def test_a_mutant_that_breaks_every_test_is_trivial(tmp_path):
    all_fail = pytest_result(dict.fromkeys(ALL, "E: x"))
    tests = ("tests/test_lib.py::test_f", "tests/test_lib.py::test_g")
    assert (await noticed(tmp_path, tests, first=all_fail, second=all_fail)).verdict == "trivial"


async def test_only_tests_that_reach_the_mutation_are_run_and_then_the_tasks_own_command(tmp_path):
    sandbox = RecordingSandbox(suite(first=pytest_result({F: "E: x", F2: PASSED}), second=pytest_result(ALL)))
    snapshot = tree(tmp_path / "tree")
    made = Harness(snapshot, ENVIRONMENT, sandbox, test_command="A=1 pytest -q", ledger=tmp_path / "l")
    await made.try_mutant(await made.base(), {"lib.py": b"x"}, ("tests/test_lib.py::test_f",))
    first, second = sandbox.requests[2:]
    assert first.argv[-1] == "tests/test_lib.py::test_f"
    assert "tests/test_lib.py" in second.argv
    assert made.narrowed(["tests/test_lib.py::test_f"]) == "A=1 python -m pytest -q tests/test_lib.py"
    # A run that is there is not paid for again.
    again = Harness(snapshot, ENVIRONMENT, sandbox, test_command="A=1 pytest -q", ledger=tmp_path / "l")
    await again.try_mutant(await again.base(), {"lib.py": b"x"}, ("tests/test_lib.py::test_f",))
    assert len(sandbox.requests) == 4


async def test_tests_that_do_not_always_pass_are_no_part_of_the_base(tmp_path):
    twice = {"base": pytest_result({**ALL, G: "E: x"}), "covered": covered(pytest_result({**ALL, F: "E: x"}))}
    base = await harness(tmp_path, suite(**twice)).base()
    assert (base.passing, base.num_failing, base.num_flaky) == ({F2}, 1, 1)


MISSING = "ModuleNotFoundError: No module named 'numpy'"


@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        ({"base": pytest_result({}, exit_code=5)}, InputError, "found no tests"),
        ({"base": pytest_result(dict.fromkeys(ALL, "AssertionError: x"))}, InputError, "3 fail"),
        ({"base": pytest_result({"tests/test_lib.py": MISSING})}, PrepareError, "'numpy' is not installed"),
        (
            {"base": replace(pytest_result({}), outcome=Outcome.TIMED_OUT, wall_seconds=600.0)},
            InputError,
            "did not end within 600",
        ),
        ({"covered": pytest_result(ALL)}, PrepareError, "coverage of the tests cannot be had"),
        (
            {"covered": covered(pytest_result(dict.fromkeys(ALL, "E: x")))},
            InputError,
            "no test passes in two",
        ),
        (
            {"base": replace(pytest_result({}), outcome=Outcome.INFRA_ERROR, error="no space")},
            SandboxError,
            "no space",
        ),
    ],
)
async def test_a_suite_that_cannot_be_used_is_refused_with_the_reason(tmp_path, results, error, message):
    with pytest.raises(error, match=message):
        await harness(tmp_path, suite(**results)).base()


def test_a_command_that_does_not_run_pytest_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not run pytest"):
        harness(tmp_path, suite(), command="make test")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"tests": [], "files": {"lib.py": {"1": "1"}}}',
        b'{"tests": ["t"], "files": {"lib.py": 3}}',
    ],
)
def test_an_account_of_coverage_that_cannot_be_is_none(data):
    result = replace(pytest_result(ALL), collected={"coverage.json": data})
    assert read_map(result, ["lib.py"]) is None


def coverage_map():
    found = read_map(covered(pytest_result(ALL)), FILES)
    assert found is not None
    return found


def test_coverage_says_which_tests_run_which_lines_and_what_imports_run():
    found = coverage_map()
    assert found.tests_at("lib.py", [4, 5]) == {"tests/test_lib.py::test_f"}
    assert found.tests_at("lib.py", [1]) == found.tests_at("/etc/passwd", [1]) == frozenset()
    assert found.is_imported("lib.py", range(4, 6))
    assert not found.is_imported("lib.py", [5])


def test_only_lines_that_passing_tests_run_are_candidates(tmp_path):
    skipped: Counter[str] = Counter()
    sources = load_sources(tree(tmp_path), coverage_map(), skipped)
    assert list(sources) == ["lib.py"]  # no test, and nothing that no test runs
    found = reached(sources.values(), coverage_map(), frozenset({F}), skipped)
    assert {c.mutation.qualname for c in found} == {"f"}
    assert skipped["no test reaches it"] > 0


def test_every_operator_has_its_turn_and_the_order_is_that_of_the_seed(tmp_path):
    sources = load_sources(tree(tmp_path), coverage_map(), Counter())
    found = reached(sources.values(), coverage_map(), frozenset({F, G}), Counter())
    first, again, other = (in_fair_order(found, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert Counter(first) == Counter(found)
    num_operators = len({c.mutation.operator for c in found})
    assert len({c.mutation.operator for c in first[:num_operators]}) == num_operators


def test_no_function_file_or_operator_gives_more_than_its_share(tmp_path):
    sources = load_sources(tree(tmp_path), coverage_map(), Counter())
    found = [c.mutation for c in reached(sources.values(), coverage_map(), frozenset({F, G}), Counter())]
    quotas = quotas_for(12, num_files=2)
    assert (quotas.per_function, quotas.per_file, quotas.per_operator) == (1, 6, 2)
    in_f, in_g = ([m for m in found if m.qualname == name] for name in "fg")
    quotas.take(in_f[0])
    assert not any(quotas.admits(mutation) for mutation in in_f)
    assert all(quotas.admits(mutation) for mutation in in_g)
    same = [m for m in in_g if m.operator == "variable-wrong"]
    for path in ("x.py", "y.py"):
        quotas.take(replace(same[0], path=path, qualname=path))
    assert not quotas.admits(same[0])


def test_sites_of_one_bug_are_apart_and_do_not_overlap():
    text = (
        "def f(a):\n    if a:\n        b = 1\n        c = 2\n        d = a + 3\n    e = 4\n    return a - e\n"
    )
    source = Source("m.py", text.encode())
    found = {(m.operator, m.line): Reached(m, frozenset()) for m in mutations(source)}
    negated, inner, last = (
        found["condition-negate", 2],
        found["arithmetic-swap", 5],
        found["arithmetic-swap", 7],
    )
    assert fits(negated, inner, "function")
    assert fits(last, negated, "function")
    assert not fits(last, inner, "function")  # two lines are no distance
    whole = replace(negated.mutation, edit=Edit(source.line_start(2), source.line_start(6), ""))
    assert not fits(Reached(whole, frozenset()), inner, "function")
    elsewhere = Reached(replace(inner.mutation, path="n.py"), frozenset())
    assert [fits(negated, elsewhere, sites) for sites in ("function", "file", "files")] == [
        False,
        False,
        True,
    ]
    other = Reached(replace(inner.mutation, qualname="g"), frozenset())
    assert [fits(negated, other, sites) for sites in ("function", "file", "files")] == [False, True, False]


class OneEnvironment:
    async def prepare(self, tree: Path) -> PreparedEnvironment:
        return ENVIRONMENT


@pytest.mark.parametrize(
    ("result", "problems"),
    [
        (pytest_result({**ALL, F: "E: x"}), []),
        (pytest_result(ALL), [f"{F} does not fail"]),
        (pytest_result({**ALL, F: "E: x", G: "E: x"}), [f"{G} does not pass"]),
        (pytest_result({F: "E: x"}), [f"{G} does not pass"]),
        (replace(pytest_result({}), exit_code=4), ["pytest ended with exit code 4"]),
    ],
)
async def test_a_built_task_is_sound_where_its_tests_say_what_it_claims(tmp_path, result, problems):
    tree(tmp_path)
    task = Task(task_id="t", repo=str(tmp_path), fail_to_pass=(F,), pass_to_pass=(G,))
    assert await find_problems(task, RecordingSandbox(lambda _: result), OneEnvironment()) == problems
