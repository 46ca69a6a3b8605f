"""Lines that failing tests run and passing ones do not come first; without passing tests nothing changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipeline.core import CapturedStream, Outcome, SandboxRequest, SandboxResult
from pipeline.draft.lines import quoted_line
from pipeline.graph.nodes.localise import localise, pack
from pipeline.graph.nodes.prepare import prepare
from pipeline.graph.run import make_tools
from pipeline.graph.state import Progress, dump, load
from pipeline.runs import RunFolder, RunRecord
from pipeline.testing import RecordingSandbox, ScriptedGenerator
from pipeline.testrun import CoverageMap, ochiai
from tests.unit.junit import PASSED, pytest_result
from tests.unit.planner import Edges, make_repository, make_task, one_rung, selected, settings_with

MODULE, TEST = "shop/price.py", "tests/test_price.py"
SOURCE = """\
def shared(value):
    value = value + 0
    return value


def total(price, discount):
    price = shared(price)
    if discount:
        price = price - 1
        price = price * 2
    return price
"""
TEST_SOURCE = """\
from shop.price import shared, total


def test_discount():
    assert total(4, True) == 2


def test_plain():
    assert total(4, False) == 4


def test_shared():
    assert shared(4) == 4
"""
DISCOUNT, PLAIN, SHARED = (f"{TEST}::test_{name}" for name in ("discount", "plain", "shared"))
COVERAGE = {
    "tests": [DISCOUNT, PLAIN, SHARED],
    "files": {
        MODULE: {
            **{"1": "-0", "2": "7", "3": "7", "6": "-0"},
            **{"7": "3", "8": "3", "9": "1", "10": "1", "11": "3"},
        },
    },
}
HANG_TEXT = (
    "Timeout (0:00:30)!\nThread 0x7f (most recent call first):\n"
    f'  File "/workspace/{MODULE}", line 2 in shared\n  File "/workspace/{TEST}", line 13 in test_shared\n'
).encode()
HANG = CapturedStream(head=HANG_TEXT, num_bytes=len(HANG_TEXT))
ONE_FAILS: Mapping[str, str] = {DISCOUNT: "assert 6 == 2", PLAIN: PASSED, SHARED: PASSED}


@pytest.fixture
def localised(tmp_path):
    """Prepare and localise the shop's fault, and pack the first round; return the progress and the edges."""

    async def call(
        outcomes: Mapping[str, str] = ONE_FAILS,
        *,
        coverage=COVERAGE,
        wall_seconds=0.5,
        instead=lambda _request: None,
        **rung,
    ):
        def respond(request: SandboxRequest) -> SandboxResult:
            if (other := instead(request)) is not None:
                return other
            result = pytest_result(selected(request, outcomes), wall_seconds=wall_seconds)
            if "coverage" not in request.run_id:
                return result
            left = coverage if isinstance(coverage, bytes) else json.dumps(coverage).encode()
            return replace(result, collected={**result.collected, "coverage.json": left})

        rungs = one_rung(**{"strategy": "line", "num_candidates": 40, **rung})
        edges = Edges(ScriptedGenerator([""]), RecordingSandbox(respond), settings_with(rungs))
        repo = make_repository(tmp_path / "repo", {MODULE: SOURCE, TEST: TEST_SOURCE})
        task = make_task(repo)
        tools = make_tools(task, RunFolder(tmp_path / "run"), edges.dependencies(tmp_path))
        now = datetime.now(UTC)
        record = RunRecord(run_id="r", status="running", task=task, settings={}, versions={}, started_at=now)
        progress = Progress(record=record)
        for node in (prepare, localise, pack):
            await node(tools, progress)
        return progress, edges

    return call


def covered_runs(edges: Edges) -> list[tuple[str, ...]]:
    return [request.argv for request in edges.sandbox.requests if "coverage" in request.run_id]


def asked_for(progress: Progress) -> list[str]:
    return [
        quoted_line(bundle.definition, prompt.span).strip()
        for bundle, prompt in zip(progress.bundles, progress.round.prompts, strict=True)
    ]


def values(
    lines: Mapping[int, int], failing, passing=(), tests=("t::a", "t::b", "t::c", "t::p[1]", "t::p[2]")
):
    coverage = CoverageMap(tests=tests, bits={"m.py": lines}, imported={"m.py": frozenset({1})})
    return ochiai(coverage, failing, passing).get("m.py", {})


def test_ochiai_is_that_of_the_paper() -> None:
    found = values({1: 0, 2: 0b001, 3: 0b011, 4: 0b111, 5: 0b100}, ["t::a", "t::b"], ["t::c"])
    # ef / sqrt(F (ef + ep)): 1/sqrt(2*1), 2/sqrt(2*2), 2/sqrt(2*3); what no failing test runs is left out.
    assert found == {2: 0.7071, 3: 1.0, 4: 0.8165}


def test_parameters_of_one_function_are_tests_of_their_own() -> None:
    assert values({2: 0b01000, 3: 0b11000}, ["t::p[1]"], ["t::p[2]"]) == {2: 1.0, 3: 0.7071}


def test_an_id_that_no_context_has_counts_for_its_function() -> None:
    assert values({2: 0b01000, 3: 0b10000}, ["t::p[\\x00]"], ["t::p[2]"]) == {2: 0.7071, 3: 0.7071}
    assert values({2: 0b00001}, ["t::gone"]) == {}


async def test_a_function_that_only_failing_tests_run_ranks_first_and_its_worst_lines_are_asked_first(
    localised,
) -> None:
    progress, edges = await localised()
    [argv] = covered_runs(edges)
    assert not any(word.startswith("tests/") for word in argv)  # the whole command, in one run
    assert "--cov-context=test" in argv
    assert [suspect.qualname for suspect in progress.suspects] == ["total", "shared"]
    assert any("Ochiai 1.00" in text for text in progress.suspects[0].evidence)
    assert asked_for(progress) == [
        "price = price - 1",
        "price = price * 2",
        "price = shared(price)",
        "if discount:",
        "return price",
    ]
    assert load(dump(progress)) == progress


@pytest.mark.parametrize(("num_candidates", "num_lines"), [(4, 1), (16, 2), (48, 6), (200, 7)])
async def test_a_round_asks_for_the_statements_that_tests_point_at_most_of_all_suspects_together(
    localised, num_candidates, num_lines
) -> None:
    progress, _ = await localised(num_candidates=num_candidates, num_suspects=2)
    in_order = [
        *("price = price - 1", "price = price * 2"),
        *("price = shared(price)", "if discount:", "return price"),
        *("value = value + 0", "return value"),
    ]
    assert asked_for(progress) == in_order[:num_lines]
    suspicions = [prompt.suspicion for prompt in progress.round.prompts]
    assert suspicions == sorted(suspicions, reverse=True)


@pytest.mark.parametrize(
    ("outcomes", "wall_seconds"),
    [
        (dict.fromkeys(ONE_FAILS, "assert 1 == 2"), 0.5),  # no test passes
        (ONE_FAILS, 59.0),  # under coverage it would not end within the limit of 60 s
    ],
)
async def test_without_passing_tests_or_in_a_long_suite_the_failing_tests_run_alone(
    localised, outcomes, wall_seconds
) -> None:
    progress, edges = await localised(outcomes, wall_seconds=wall_seconds)
    failing = [test_id for test_id, text in outcomes.items() if text != PASSED]
    [argv] = covered_runs(edges)
    assert [word for word in argv if word.startswith("tests/")] == failing
    assert (progress.suspicion, progress.covered) == ({}, {MODULE: [2, 3, 7, 8, 9, 10, 11]})
    assert all("Ochiai" not in " ".join(suspect.evidence) for suspect in progress.suspects)
    spans = [prompt.span for prompt in progress.round.prompts]
    assert spans == sorted(spans)  # in the order of the file


@pytest.mark.parametrize("coverage", [b"", b"{", {"tests": [], "files": {MODULE: {"2": "1"}}}])
async def test_coverage_that_cannot_be_read_is_no_failure(localised, coverage) -> None:
    progress, edges = await localised(coverage=coverage)
    assert len(covered_runs(edges)) == 1
    assert (progress.suspicion, progress.covered) == ({}, {})
    assert {suspect.qualname for suspect in progress.suspects} == {"total", "shared"}


async def test_a_suite_that_does_not_end_under_coverage_gives_way_to_its_failing_tests(localised) -> None:
    def slow(request: SandboxRequest) -> SandboxResult | None:
        is_whole = "coverage" in request.run_id and DISCOUNT not in request.argv
        return SandboxResult(outcome=Outcome.TIMED_OUT, wall_seconds=60.0) if is_whole else None

    progress, edges = await localised(instead=slow)
    assert [DISCOUNT in argv for argv in covered_runs(edges)] == [False, True]
    assert (progress.suspicion, progress.covered) == ({}, {MODULE: [2, 3, 7, 8, 9, 10, 11]})


async def test_tests_that_hang_are_left_out_of_the_run(localised) -> None:
    def hanging(request: SandboxRequest) -> SandboxResult | None:
        if "coverage" in request.run_id or any(SHARED in word for word in request.argv):
            return None
        return SandboxResult(outcome=Outcome.TIMED_OUT, stdout=HANG, wall_seconds=60.0)

    progress, edges = await localised({DISCOUNT: "assert 6 == 2", PLAIN: PASSED}, instead=hanging)
    assert progress.record.baseline.fail_to_pass == [SHARED, DISCOUNT]
    [argv] = covered_runs(edges)
    assert f"--deselect={SHARED}" in argv
    assert progress.suspicion[MODULE][9] == 1.0
