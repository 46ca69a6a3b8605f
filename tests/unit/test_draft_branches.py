"""Branches of a greedy answer: each begins as that does, and leaves it where the model wavered."""

from dataclasses import replace

from pipeline.core import Step
from pipeline.draft.branches import Branch, Frontier, branches_of
from tests.unit.completions import told

ORIGINAL = "    return a - b"
STEPS = (
    Step(" return", -0.1, ((" result", -2.5), (" ret", -3.0), ("<|im_end|>", -4.0))),
    Step(" a", -0.2, ((" b", -2.0), (" \ufffd", -2.1))),
    Step(" *", -0.5, ((" -", -1.0), (" +", -1.5))),
    Step(" b", 0.0, ()),
    Step("\n```", -0.1, (("\n", -3.0), ("\n```\n", -4.0))),
)


def greedy(steps=STEPS):
    return told(steps)


def test_a_branch_is_the_greedy_answer_up_to_a_step_and_another_token_there():
    found = {branch.text: branch.logprob for branch in branches_of(Branch(7), greedy(), "pass")}
    assert found[" return a +"] == -0.1 - 0.2 - 1.5
    assert set(found) == {" result", " return b", " return a -", " return a +", " return a * b\n"}


def test_what_leads_back_to_the_greedy_answer_or_to_the_original_is_no_branch():
    texts = [branch.text for branch in branches_of(Branch(0), greedy(), ORIGINAL)]
    assert " return a -" not in texts  # the original
    assert " ret" not in texts  # the greedy answer, in other tokens
    assert " return a +" in texts


def test_a_branch_is_branched_again_where_its_own_answer_wavered():
    begun = Branch(0, " return a -", -1.3)
    answer = replace(greedy((Step(" b", -0.1, ((" c", -2.0),)),)), text=" return a - b")
    assert list(branches_of(begun, answer, "pass")) == [Branch(0, " return a - c", -3.3)]


def test_the_likeliest_branches_come_first_whatever_their_prompts_and_none_comes_twice():
    frontier = Frontier(tried={(0, " result")})
    frontier.add(branches_of(Branch(0), greedy(), ORIGINAL))
    frontier.add(branches_of(Branch(0), greedy(), ORIGINAL))
    frontier.add([Branch(1, "y", -0.8)])
    assert frontier.take(2) == [Branch(1, "y", -0.8), Branch(0, " return a +", -0.1 - 0.2 - 1.5)]
    assert [branch.text for branch in frontier.take(9)] == [" return b", " return a * b\n"]
    assert not frontier


def test_an_answer_without_steps_has_no_branches():
    assert list(branches_of(Branch(0), greedy(()), ORIGINAL)) == []
