"""Splices: the statement itself with a token changed, likeliest first, where the model copied it."""

from pipeline.core import Step
from pipeline.draft.branches import Branch
from pipeline.draft.splices import programs, splices_of
from tests.unit.completions import told

DEFINITION = "def f(a, b):\n    return a - b\n"
ORIGINAL = "    return a - b"
SPAN = (2, 2)
STEPS = (
    Step(" return", -0.1, ((" a", -2.5), ("<|im_end|>", -3.0), (" ```", -3.5))),
    Step(" a", -0.1, ((" b", -2.0), ("\n", -2.1))),
    Step(" -", -0.1, ((" +", -1.5), (" -=", -1.7))),
    Step(" b", -0.1, ((" a", -1.2),)),
    Step("\n```", -0.1, (("\n", -0.2),)),
)


def copied(steps=STEPS):
    return told(steps)


def place(_number):
    return DEFINITION, SPAN


def test_a_token_takes_the_place_of_one_of_two_or_of_none():
    texts = {splice.text: splice.logprob for splice in splices_of(Branch(0), copied(), ORIGINAL)}
    assert texts[" return a + b"] == -1.5
    assert texts[" return a +"] == texts[" return a + - b"] == -2.5
    assert not any("im_end" in text or "`" in text or "\n" in text for text in texts)


def test_only_what_parses_is_a_program_and_each_comes_once_likeliest_first():
    splices = [*splices_of(Branch(0), copied(), ORIGINAL), *splices_of(Branch(0), copied(), ORIGINAL)]
    texts = [splice.text for splice in programs(splices, 9, place)]
    assert texts[:3] == [" return a - a", " return a + b", " return b - b"]
    assert " return a -= b" not in texts
    assert len(texts) == len(set(texts))
    assert [splice.text for splice in programs(splices, 1, place)] == texts[:1]


def test_what_an_earlier_round_tried_is_not_tried_again():
    splices = list(splices_of(Branch(0), copied(), ORIGINAL))
    assert programs(splices, 1, place, {(0, " return a - a")}) == [Branch(0, " return a + b", -1.5)]


def test_an_answer_that_is_no_copy_has_no_splices():
    other = copied((Step(" return", -0.1, ()), Step(" b", -0.1, ((" a", -1.0),))))
    assert list(splices_of(Branch(0), other, ORIGINAL)) == []
