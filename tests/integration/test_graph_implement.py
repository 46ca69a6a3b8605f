"""Stubs and missing definitions are written against real pytest in bubblewrap; only drafts are scripted."""

from __future__ import annotations

import re

import pytest

from pipeline.config import Rung, Settings
from pipeline.core import Limits, SandboxLimits
from pipeline.graph.run import Dependencies, run_task
from pipeline.runs import RunFolder, RunRecord
from pipeline.testing import ScriptedGenerator
from tests.integration.planner_tools import PytestEnvironment
from tests.unit.planner import git_apply, make_repository, make_task
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox

pytestmark = pytest.mark.integration

CORE = '''\
"""A stack, and numbers."""


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        """Put an item on top."""
        raise NotImplementedError


def double(value):
    return value * 2
'''
TEST = """\
import pytest

from shop import EmptyError, Stack, double, total


def test_push():
    stack = Stack()
    stack.push(1)
    assert stack.items == [1]


def test_pop():
    stack = Stack()
    stack.items = [1, 2]
    assert stack.pop() == 2


def test_pop_of_nothing():
    with pytest.raises(EmptyError):
        Stack().pop()


def test_size():
    assert Stack().size == 0


def test_total():
    assert total([1, 2.5]) == 3.5


def test_double():
    assert double(2) == 4
"""
FILES = {
    "shop/__init__.py": "from shop.core import Stack, double\n",
    "shop/core.py": CORE,
    "tests/test_shop.py": TEST,
}
ANSWERS = {
    "push": "\n    self.items.append(item)\n```",
    "pop": "\n    if not self.items:\n        raise EmptyError\n    return self.items.pop()\n```",
    "size": "\n    return len(self.items)\n```",
    "total": "\n    return math.fsum(items)\n```",
}


def reply(prompt, sampling, _number) -> str:
    name = re.search(r"def (\w+)", prompt.prefill)
    answer = ANSWERS.get(name[1] if name else "", "nothing")
    return answer if sampling.temperature else "I would rather not."


async def implemented(tmp_path, generator: ScriptedGenerator, **task) -> RunRecord:
    repo = make_repository(tmp_path / "repo", FILES)
    ladder = (Rung(strategy="line", num_candidates=12),) * 2
    edges = Dependencies(
        generator=generator,
        sandbox=BubblewrapSandbox(),
        environments=PytestEnvironment(tmp_path / "deps"),
        settings=Settings(planner={"ladder": ladder}),
        clone_cache=tmp_path / "clones",
    )
    limits = Limits(sandbox=SandboxLimits(wall_seconds=20))
    return await run_task(make_task(repo, limits=limits, **task), RunFolder(tmp_path / "run"), edges)


@pytest.mark.parametrize("kind", ["fix", "implement"])
async def test_a_stub_a_method_a_property_a_function_and_an_error_are_written_together(tmp_path, kind):
    record = await implemented(tmp_path, ScriptedGenerator(reply=reply), kind=kind)
    assert record.status == "solved", record.reason
    names = {name.partition("::")[2] for name in record.scaffold.added}
    assert names == {"EmptyError", "total", "Stack.pop", "Stack.size"}
    assert record.scaffold.baseline.fail_to_pass == ["tests/test_shop.py"]
    git_apply(tmp_path / "repo", record.patch.diff)
    code = (tmp_path / "repo/shop/core.py").read_text()
    exports = (tmp_path / "repo/shop/__init__.py").read_text()
    assert "import math\n" in code
    assert "TODO" not in code
    assert "NotImplementedError" not in code
    assert "from shop.core import EmptyError" in exports


async def test_hostile_answers_write_nothing_and_break_nothing(tmp_path):
    hostile = [
        "\n    import os\n    os._exit(0)\n```",
        "\n    open('/workspace/tests/test_shop.py', 'w').write('def test_push(): pass')\n```",
        "\x00" * 50,
        "```python\nclass Stack:\n    pass\n```",
    ]
    generator = ScriptedGenerator(reply=lambda _p, _s, number: hostile[number % len(hostile)])
    record = await implemented(tmp_path, generator)
    assert (record.status, record.patch) == ("unsolved", None)
    drafts = [entry for round_ in record.rounds for entry in round_.candidates]
    assert all(entry.candidate.refused or entry.verdict.num_fixed == 0 for entry in drafts)
