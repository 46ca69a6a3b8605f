"""Bugs are injected into a real repository, noticed by its tests in bubblewrap, and rebuilt from recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.bench.build import build_tasks
from pipeline.bench.make import Options, Tools, make_tasks
from pipeline.bench.recipe import injected
from pipeline.bench.sdist import Index
from pipeline.bench.sources import Library
from pipeline.bench.verify import find_problems
from pipeline.bench.workshop import Search
from pipeline.exceptions import InputError
from tests.integration.planner_tools import LoggingSandbox, PytestEnvironment
from tests.unit.planner import make_repository

pytestmark = pytest.mark.integration

FILES = {
    "shop/__init__.py": "",
    "shop/prices.py": '''
def discount(price, percent):
    """Return the price less a discount."""
    if percent < 0 or percent > 100:
        raise ValueError("no such discount")
    return price - price * percent / 100


def total(items, tax=0.0):
    result = 0
    for price, count in items:
        if count <= 0:
            continue
        result += price * count
    return result * (1 + tax)


def untested(a):
    return a < 1
''',
    "shop/names.py": """
def initials(name):
    parts = name.strip().split(" ")
    return "".join(part[0].upper() for part in parts if part)


def forever(n):
    while n > 0:
        n -= 1
    return n
""",
    "tests/test_shop.py": """
import pytest
from shop.names import forever, initials
from shop.prices import discount, total


def test_discount():
    assert discount(200, 25) == 150


def test_bad_discount():
    for percent in (-1, 101):
        with pytest.raises(ValueError):
            discount(1, percent)


def test_total():
    assert total([(2, 3), (5, 1), (7, 0)]) == 11
    assert total([(10, 1)], tax=0.5) == 15


@pytest.mark.parametrize("name", ["ada lovelace", " ada  lovelace "])
def test_initials(name):
    assert initials(name) == "AL"


def test_forever():
    assert forever(3) == 0


def test_broken():
    assert total([]) == 1
""",
}
OPTIONS = Options(search=Search(num_tasks=2, multi_share=0.5))


def tools(tmp_path: Path, name: str) -> Tools:
    work = tmp_path / name
    return Tools(
        library=Library(folder=work, sdists=work, clone_cache=work / "clones", index=Index()),
        sandbox=LoggingSandbox(tmp_path / f"{name}.log"),
        environments=PytestEnvironment(tmp_path / "environment"),
        ledger=work / "ledger",
    )


async def test_bugs_are_kept_that_the_tests_notice_and_their_repositories_show_them(tmp_path):
    made = tools(tmp_path, "one")
    origin = made.library.resolve(str(make_repository(tmp_path / "shop", FILES)))
    tasks, account = await make_tasks(origin, "dev", made, OPTIONS, lambda _: None)
    assert len(tasks) == 2 == len({task.task_id for task in tasks})
    assert (account.num_passing_tests, account.num_failing_tests) == (6, 1)
    assert account.tried["killed"] >= 3
    for task in build_tasks(tasks, tmp_path / "built", made.library, lambda _: None):
        facts = injected(task)
        assert {place.function for place in facts.gold} <= {
            "shop/prices.py::discount",
            "shop/prices.py::total",
            "shop/names.py::initials",
            "shop/names.py::forever",
        }
        assert "tests/test_shop.py::test_broken" not in (*task.fail_to_pass, *task.pass_to_pass)
        assert await find_problems(task, made.sandbox, made.environments) == []
        healed = task.model_copy(update={"repo": str(tmp_path / "shop")})
        problems = await find_problems(healed, made.sandbox, made.environments)
        assert problems == [f"{test_id} does not fail" for test_id in task.fail_to_pass]
        for place in facts.gold:
            path, _, name = place.function.partition("::")
            lines = (Path(task.repo) / path).read_text().split("\n")
            above = [line for line in lines[: place.lines[0]] if line.startswith("def ")]
            assert above[-1].startswith(f"def {name}(")
    several = [task for task in tasks if injected(task).recipe.sites != "single"]
    assert several
    assert all(len(injected(task).gold) >= 2 for task in several)

    # What was interrupted is not paid for again; another run from nothing comes to the same tasks.
    lines = (tmp_path / "one.log").read_text()
    assert await make_tasks(origin, "dev", made, OPTIONS, lambda _: None) == (tasks, account)
    assert (tmp_path / "one.log").read_text() == lines
    other = tools(tmp_path, "two")
    assert (await make_tasks(origin, "dev", other, OPTIONS, lambda _: None))[0] == tasks


async def test_a_statement_tells_the_symptom_and_not_the_place(tmp_path):
    made = tools(tmp_path, "one")
    origin = made.library.resolve(str(make_repository(tmp_path / "shop", FILES)))
    options = Options(search=Search(num_tasks=1, multi_share=0.0), statement="symptom")
    [task], _ = await make_tasks(origin, "held_out", made, options, lambda _: None)
    assert task.fail_to_pass[0] in task.statement
    assert json.dumps(injected(task).gold[0].function) not in task.statement
    assert injected(task).split == "held_out"


async def test_a_suite_that_notices_nothing_is_told(tmp_path):
    files = {
        "lib.py": "def f(a):\n    return a + 1\n",
        "test_lib.py": "import lib\ndef test():\n    lib.f(1)\n",
    }
    made = tools(tmp_path, "one")
    origin = made.library.resolve(str(make_repository(tmp_path / "lib", files)))
    with pytest.raises(InputError, match="notice none of"):
        await make_tasks(origin, "dev", made, OPTIONS, lambda _: None)


async def test_a_source_without_python_is_told(tmp_path):
    made = tools(tmp_path, "one")
    origin = made.library.resolve(str(make_repository(tmp_path / "lib", {"README": "x\n"})))
    with pytest.raises(InputError, match="no Python file"):
        await make_tasks(origin, "dev", made, OPTIONS, lambda _: None)
