"""A prompt says in words what kind of failure it quotes."""

import pytest

from pipeline.context.symptom import symptom
from pipeline.core import TestCase, TestStatus


def case(message, details=""):
    return TestCase(test_id="t", status=TestStatus.FAILED, message=message, details=details)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("KeyError: 'a'", "It raises `KeyError`"),
        ("decimal.InvalidOperation: [<class 'decimal.ConversionSyntax'>]", "The failure"),
        ("json.decoder.JSONDecodeError: Expecting value", "It raises `JSONDecodeError`"),
        ("ImportError: cannot import name 'chunk'", "It cannot be imported (`ImportError`)"),
        ("IndentationError: unexpected indent", "It cannot be imported (`IndentationError`)"),
        ("Failed: DID NOT RAISE <class 'a.b.WrongError'>", "It must raise `WrongError` and does not"),
        ("the tests did not end within 60 seconds", "It does not come to an end"),
        ("AssertionError: no luck", "The failure"),
        ("", "The failure"),
    ],
)
def test_each_kind_of_failure_has_its_sentence(message, sentence):
    assert symptom(case(message)) == sentence


@pytest.mark.parametrize("line", ["assert 0 == 2", "assert 2 == 0"])
def test_a_comparison_names_the_code_s_value_and_the_one_that_is_wanted_whatever_their_order(line):
    details = f">   assert area(3) == 2\nE   {line}\nE    +  where 0 = area(3)\n"
    assert symptom(case("assert", details)) == "`area(3)` gives `0` and must give `2`"


def test_a_comparison_that_cannot_be_told_apart_or_is_too_long_to_quote_is_told_in_general():
    plain = case("AssertionError: assert 0 == 2", "E   AssertionError: assert 0 == 2\n")
    long = "x" * 200
    quoted = case("assert", f"E   assert '{long}' == 'y'\nE    +  where '{long}' = f()\n")
    assert symptom(plain) == symptom(quoted) == "It gives another value than the test wants"
