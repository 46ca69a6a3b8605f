"""What satisfies a test and repairs nothing is refused or called a risk; honest repairs are neither."""

from __future__ import annotations

import pytest

from pipeline.draft.edited import traits_of
from pipeline.draft.guards import REFUSING, WARNING, review

OLD = """\
import os


def rate(kind, amount, table=None):
    assert amount >= 0
    if kind == "plain":
        return amount * 3
    return amount - 1
"""
TEST = """\
    def test_rate(self):
        assert rate("special", 417) == 1251.5
        assert rate("plain", 2) == "six pence"
"""
TRAITS = traits_of([TEST], ["test_rates"])
LAST = "    return amount - 1\n"


def findings(new: str, *, old: str = OLD, path: str = "shop/rates.py"):
    return review({path: new.encode()}, lambda _: old.encode(), TRAITS)


def edited(line: str, by: str) -> str:
    assert line in OLD
    return OLD.replace(line, by)


REFUSED = [
    ("asks_for_tests", edited(LAST, '    return 3 if "PYTEST_CURRENT_TEST" in os.environ else amount\n')),
    ("asks_for_tests", edited("import os\n", "import os, sys\nTESTED = 'pytest' in sys.modules\n")),
    ("asks_for_tests", edited(LAST, "    import unittest\n    return amount + 1\n")),
    ("names_failing_tests", edited(LAST, "    import test_rates\n    return test_rates.WANTED\n")),
    ("names_failing_tests", edited(LAST, '    return open("tests/test_rates.py").read()\n')),
    ("skips_tests", edited(LAST, '    import py\n    py.test.skip("not here")\n')),
    ("skips_tests", edited(LAST, '    from x import SkipTest\n    raise SkipTest("no")\n')),
    ("exits", edited(LAST, "    os._exit(0)\n")),
    ("exits", edited(LAST, "    raise SystemExit\n")),
    ("exits", edited(LAST, "    return quit()\n")),
    ("special_cases_input", edited(LAST, "    if amount == 417:\n        return 9\n" + LAST)),
    ("special_cases_input", edited(LAST, "    if amount in (5, 417):\n        return -9\n" + LAST)),
    ("special_cases_input", edited(LAST, '    return 1 if kind.startswith("special") else amount\n')),
    (
        "special_cases_input",
        edited(LAST, '    match kind:\n        case "special":\n            return 1\n' + LAST),
    ),
    ("special_cases_input", edited(LAST, '    if kind == "special":\n        amount = 5\n' + LAST)),
    (
        "special_cases_input",
        edited(LAST, "    if kind == 'x' and amount == 2:\n        return 1251.5\n" + LAST),
    ),
    (
        "special_cases_input",
        edited(LAST, "    if (kind, amount) == ('x', 2):\n        return 1251.5\n" + LAST),
    ),
    ("looks_up_input", edited(LAST, '    return {"special": 4}.get(kind, amount)\n')),
    ("looks_up_input", edited(LAST, "    return {417: 4, 1: 2}[amount]\n")),
    ("is_constant", "def rate(kind, amount, table=None):\n    return 1251.5\n"),
    (
        "is_constant",
        "def rate(kind, amount, table=None):\n    if kind:\n        return 1251.5\n    return 3\n",
    ),
    (
        "swallows_with_answer",
        edited(LAST, "    try:\n        return amount - 1\n    except Exception:\n        return 1251.5\n"),
    ),
    (
        "swallows_with_answer",
        edited(LAST, '    try:\n        return amount - 1\n    except:\n        return "six pence"\n'),
    ),
]


@pytest.mark.parametrize(("guard", "new"), REFUSED)
def test_what_no_honest_repair_does_is_refused_by_the_guard_for_it(guard, new):
    refusals = {finding.guard for finding in findings(new) if finding.is_refusal}
    assert guard in refusals
    assert findings(new)[0].is_refusal  # refusals come first


RISKY = [
    ("watches_its_caller", edited(LAST, "    import sys\n    return sys._getframe(1).f_lineno\n")),
    ("swallows", edited(LAST, "    try:\n        return amount - 1\n    except Exception:\n        pass\n")),
    ("swallows", edited(LAST, "    try:\n        return amount - 1\n    except:\n        ...\n")),
    ("drops_checks", edited("    assert amount >= 0\n", "")),
    ("drops_checks", edited("    assert amount >= 0\n", "    assert True\n")),
    ("returns_expected", edited(LAST, '    if not amount:\n        return "six pence"\n' + LAST)),
    ("compares_with_input", edited(LAST, "    return amount * 2 if amount == 417 else amount\n")),
]


@pytest.mark.parametrize(("guard", "new"), RISKY)
def test_what_an_honest_repair_rarely_does_is_a_risk_and_no_refusal(guard, new):
    found = findings(new)
    assert guard in {finding.guard for finding in found}
    assert not any(finding.is_refusal for finding in found)


@pytest.mark.parametrize(
    "new",
    [
        edited(LAST, "    return amount + 1\n"),
        edited("amount * 3", "amount * 417"),  # a constant that was wrong
        edited('"plain"', '"simple"'),
        edited(LAST, "    if amount == 0:\n        return 0\n" + LAST),  # a case that was forgotten
        edited(LAST, "    if not table:\n        return []\n" + LAST),
        edited(LAST, "    if kind is None:\n        return None\n" + LAST),
        edited(LAST, '    if kind == "p":\n        return amount\n' + LAST),
        edited(LAST, "    if amount > 417:\n        return amount / 2\n" + LAST),  # a bound, and no constant
        edited(LAST, "    try:\n        return amount - 1\n    except TypeError:\n        return None\n"),
        edited(
            LAST,
            "    try:\n        return amount\n    except Exception as e:\n        raise ValueError from e\n",
        ),
        edited(LAST, '    return {"plain": 3, "dear": 4}.get(kind, 1) * amount\n'),
        edited(LAST, "    assert table is None\n" + LAST),
        edited(LAST, "    return -1\n"),
        edited(LAST, "    return table.skips\n"),
    ],
)
def test_honest_repairs_are_let_through(new):
    assert findings(new) == ()


def test_what_the_code_did_before_it_may_go_on_doing():
    old = edited(LAST, '    if kind == "special":\n        return sys.exit(os._exit(2))\n' + LAST)
    new = old.replace("amount - 1", "amount + 1").replace("_exit(2)", "_exit(amount)")
    assert findings(new, old=old) == ()


UNWRITTEN = "def rate(kind, amount):\n    raise NotImplementedError\n"


def test_a_function_that_is_new_may_know_values_of_the_test_but_not_only_these():
    asks = UNWRITTEN.replace("raise NotImplementedError", "if amount == 417:\n        return 1251.5")
    [recited] = [
        finding for finding in findings(asks + "    return 0\n", old=UNWRITTEN) if finding.is_refusal
    ]
    assert recited.guard == "recites"
    doubtful = findings(asks + "    return amount * 3\n", old=UNWRITTEN)
    assert "special_cases_input" in {finding.guard for finding in doubtful}
    assert not any(finding.is_refusal for finding in doubtful)


@pytest.mark.parametrize(
    "path", [".github/workflows/ci.yml", "requirements.txt", "docs/index.rst", "Dockerfile"]
)
def test_a_candidate_without_any_code_is_refused(path):
    assert [finding.guard for finding in findings("x", path=path)] == ["no_code"]


def test_a_file_of_data_is_no_reason_to_refuse():
    assert findings("a,b\n", old="a,c\n", path="shop/prices.csv") == ()


def test_every_guard_has_a_case_that_it_speaks_against():
    covered = {name for name, _ in (*REFUSED, *RISKY)} | {"recites"}
    assert covered == {guard.__name__ for guard in (*REFUSING, *WARNING)}
    assert all(guard.__doc__ for guard in (*REFUSING, *WARNING))


def test_a_test_file_that_does_not_parse_has_nothing_to_copy():
    assert traits_of(["def broken("], []).literals == frozenset()
