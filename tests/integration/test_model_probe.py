"""The probe tells a model that writes good code from one that talks; its REPL is the real one."""

from __future__ import annotations

from pipeline.ask.probe import probed
from pipeline.ask.probe_tasks import repl_tasks
from pipeline.ask.routing import route
from pipeline.core import Prompt, Sampling
from pipeline.telemetry import discard
from pipeline.testing import ScriptedGenerator
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox

_ANSWERS = {task.question: task.answer for task in repl_tasks()}


def coder(prompt: Prompt, _sampling: Sampling, _number: int) -> str:
    """Recite a cell that looks at the input and gives the right answer; say nothing else."""
    for question, answer in _ANSWERS.items():
        if question in prompt.messages[1].content:
            return f'```repl\nprint(len(context))\nFINAL("{answer}")\n```'
    return "No"


async def test_a_model_that_writes_code_is_given_the_repl(tmp_path):
    found = await probed(
        ScriptedGenerator(coder), BubblewrapSandbox(), tmp_path, recurrence_depth=2, emit=discard
    )

    assert (found.repl, found.recurrence_depth) == (1.0, 2)
    assert route(found)[0] == "recursive"


async def test_a_model_that_talks_is_given_nothing_to_decide(tmp_path):
    talk = ScriptedGenerator(["The answer is 42, I am sure. FINAL(42)"])

    found = await probed(talk, BubblewrapSandbox(), tmp_path, recurrence_depth=1, emit=discard)

    assert (found.repl, found.auc) == (0.0, 0.5)
    assert route(found)[0] == "lexical"
