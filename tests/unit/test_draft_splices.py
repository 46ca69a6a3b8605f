"""Splices: the statement itself with a token changed, likeliest first, where the model copied it."""

from pipeline.core import Step
from pipeline.draft.branches import Branch
from pipeline.draft.splices import Place, Spelling, programs, splices_of

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


def spelled(*answers):
    spelling = Spelling(ORIGINAL.removeprefix("   "))
    for steps in answers or (STEPS,):
        spelling.follow(steps)
    return spelling


PLACES = {0: Place(DEFINITION, SPAN, DEFINITION.encode())}


def test_a_token_takes_the_place_of_one_of_two_or_of_none():
    texts = {splice.text: splice.logprob for splice in splices_of(Branch(0), spelled())}
    assert texts[" return a + b"] == -1.5
    assert texts[" return a +"] == texts[" return a + - b"] == -2.5
    assert not any("im_end" in text or "`" in text or "\n" in text for text in texts)


def test_only_what_parses_is_a_program_and_each_comes_once_likeliest_first():
    splices = [*splices_of(Branch(0), spelled()), *splices_of(Branch(0), spelled())]
    texts = [splice.text for splice in programs(splices, 9, PLACES)]
    assert texts[:3] == [" return a - a", " return a + b", " return b - b"]
    assert " return a -= b" not in texts
    assert len(texts) == len(set(texts))
    assert [splice.text for splice in programs(splices, 1, PLACES)] == texts[:1]


def test_half_a_word_that_makes_a_name_that_there_is_not_is_no_program():
    spelling = spelled((*STEPS[:3], Step(" b", -0.1, ((" be", -0.5), (" a", -1.2)))))
    texts = [splice.text for splice in programs(splices_of(Branch(0), spelling), 1, PLACES)]
    assert texts == [" return a - a"]


def test_what_an_earlier_round_tried_is_not_tried_again():
    splices = list(splices_of(Branch(0), spelled()))
    assert programs(splices, 1, PLACES, {(0, " return a - a")}) == [Branch(0, " return a + b", -1.5)]


def test_an_answer_that_leaves_the_statement_is_turned_back_and_what_it_said_is_likely_there():
    spelling = spelled((*STEPS[:2], Step(" +", -0.4, ((" *", -1.0), (" -", -1.5))), Step(" c", -0.1, ())))
    assert (spelling.text, spelling.rest) == (" return a -", " b")
    texts = {splice.text: splice.logprob for splice in splices_of(Branch(0), spelling)}
    assert (texts[" return a + b"], texts[" return a * b"]) == (-0.4, -1.0)
    assert " return a - b" not in texts
    spelling.follow((Step(" b", -0.1, ((" a", -1.2),)), Step("\n```", -0.1, ())))
    assert spelling.is_whole
    assert " return a - a" in {splice.text for splice in splices_of(Branch(0), spelling)}


def test_where_the_model_did_not_think_of_the_right_token_the_statement_goes_on_by_a_word():
    spelling = spelled((Step(" yield", -0.1, ((" a", -2.5),)),))
    assert (spelling.text, spelling.steps[0].alternatives) == (" return", ((" yield", -0.1), (" a", -2.5)))


def test_an_answer_without_steps_has_no_splices():
    assert list(splices_of(Branch(0), spelled(()))) == []
