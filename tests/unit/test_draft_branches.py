"""Branches of a greedy answer: each begins as that does, and leaves it where the model wavered."""

from pipeline.core import Completion, Step
from pipeline.draft.branches import Branch, branches_of, likeliest

ORIGINAL = "    return a - b"
STEPS = (
    Step(" return", -0.1, ((" result", -2.5), (" ret", -3.0), ("<|im_end|>", -4.0))),
    Step(" a", -0.2, ((" b", -2.0), (" \ufffd", -2.1))),
    Step(" *", -0.5, ((" -", -1.0), (" +", -1.5))),
    Step(" b", 0.0, ()),
)


def greedy(steps=STEPS):
    return Completion(
        text="".join(step.text for step in steps),
        num_prompt_tokens=9,
        num_completion_tokens=len(steps),
        finish_reason="stop",
        recurrence_depth=1,
        seconds=0.0,
        steps=steps,
    )


def test_a_branch_is_the_greedy_answer_up_to_a_step_and_another_token_there():
    found = {branch.text: branch.logprob for branch in branches_of(7, greedy(), "pass")}
    assert found[" return a +"] == -0.1 - 0.2 - 1.5
    assert set(found) == {" result", " return b", " return a -", " return a +"}


def test_what_leads_back_to_the_greedy_answer_or_to_the_original_is_no_branch():
    texts = [branch.text for branch in branches_of(0, greedy(), ORIGINAL)]
    assert " return a -" not in texts  # the original
    assert " ret" not in texts  # the greedy answer, in other tokens
    assert " return a +" in texts


def test_the_likeliest_branches_come_first_whatever_their_prompts():
    unsure = greedy((Step("x", -0.7, (("y", -0.8),)),))
    found = likeliest(iter([*branches_of(0, greedy(), ORIGINAL), *branches_of(1, unsure, ORIGINAL)]), 2)
    assert found == [Branch(1, "y", -0.8), Branch(0, " return a +", -0.1 - 0.2 - 1.5)]


def test_an_answer_without_steps_has_no_branches():
    assert list(branches_of(0, greedy(()), ORIGINAL)) == []
