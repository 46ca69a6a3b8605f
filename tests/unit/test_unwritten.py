"""What counts as not written yet, and what an answer may do that writes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.context.failures import Evidence
from pipeline.context.localise import localise
from pipeline.context.packing import pack
from pipeline.core import ContextBundle, Message, Prompt, Suspect, TestCase, TestStatus
from pipeline.draft.apply import Applied, Refused, apply_answer
from pipeline.draft.edited import traits_of
from pipeline.draft.imports import unbound_names, with_missing_imports
from pipeline.draft.prompt import render_prompt
from pipeline.snapshot import Snapshot
from pipeline.unwritten import has_open_signature, is_unwritten, says_unwritten


@pytest.mark.parametrize(
    ("body", "empty", "says"),
    [
        ("pass", True, False),
        ("...", True, False),
        ('"""What it does."""', True, False),
        ("raise NotImplementedError", True, True),
        ('"""Doc."""\n    raise NotImplementedError("later")', True, True),
        ("pass  # TODO", True, True),
        ("# TODO: write\n    return None", True, True),
        ("return None", False, False),  # an answer like any other
        ("x = 1  # TODO: more\n    return x", False, False),
        ("raise ValueError", False, False),
        ("if a:\n        raise NotImplementedError\n    return a", False, False),
        ("return '# TODO'", False, False),
        ("def (", False, False),
    ],
)
def test_a_body_tells_whether_it_is_written(body, empty, says):
    text = f"def f(a):\n    {body}\n"
    assert (is_unwritten(text), says_unwritten(text)) == (empty, says)
    inside = "".join(f"    {line}\n" for line in text.splitlines())
    assert is_unwritten(inside) == empty


@pytest.mark.parametrize(
    "mark", ["abstractmethod", "abstractproperty", "abc.abstractmethod", "overload", "typing.overload"]
)
def test_what_is_meant_to_be_empty_is_complete(mark):
    assert not is_unwritten(f"@{mark}\ndef f(a):\n    raise NotImplementedError\n")


def test_a_class_without_a_body_is_complete_unless_it_says_otherwise():
    assert not is_unwritten("class Marker(Exception):\n    pass\n")
    assert is_unwritten("class Stack:\n    # TODO: a stack\n    pass\n")


def test_only_an_unwritten_function_leaves_its_signature_open():
    assert has_open_signature("def f(*args, **kwargs):\n    raise NotImplementedError\n")
    assert not has_open_signature("def f(*args, **kwargs):\n    return args\n")
    assert not has_open_signature("def f(a):\n    raise NotImplementedError\n")


MODULE = '''\
"""Numbers."""

import math

LIMIT = 10
TABLE = {
    1: 2,
}


def clamp(value, low, high):
    """Return the value held between low and high."""
    raise NotImplementedError


def close(self):
    pass


def halve(value):
    return value / 2
'''
TEST = """\
from numbers_ import clamp, close


def test_clamp():
    close(1)
    assert clamp(12, 0, 7) == 7
"""
FAILED = TestCase(
    test_id="tests/test_n.py::test_clamp",
    status=TestStatus.FAILED,
    message="NotImplementedError",
    details="tests/test_n.py:6: in test_clamp\nnumbers_.py:13: NotImplementedError\nE   NotImplementedError",
)


@pytest.fixture
def tree(tmp_path) -> Snapshot:
    (tmp_path / "tests").mkdir()
    (tmp_path / "numbers_.py").write_text(MODULE)
    (tmp_path / "tests/test_n.py").write_text(TEST)
    return Snapshot(tmp_path, commit="")


def test_a_function_that_says_so_is_the_first_suspect_and_an_empty_one_only_where_code_is_to_be_written(tree):
    first, *others = localise(tree, Evidence(failures=(FAILED,)), num_suspects=5)
    assert (first.qualname, first.is_unwritten) == ("clamp", True)
    assert not any(suspect.is_unwritten for suspect in others)
    found = localise(tree, Evidence(failures=(FAILED,), implements=True), num_suspects=5)
    assert [s.qualname for s in found if s.is_unwritten] == ["clamp", "close"]


def test_a_base_method_that_a_subclass_overrides_is_no_suspect_for_its_name_alone(tree):
    slip = replace(
        FAILED, details="tests/test_n.py:6: in test_clamp\nE   AssertionError", message="AssertionError"
    )
    ran = {"numbers_.py": frozenset({20, 21})}  # another function than the stub
    for covered in ({}, ran):
        found = localise(tree, Evidence(failures=(slip,), covered=covered), num_suspects=5)
        assert not any(suspect.is_unwritten for suspect in found)


async def count(texts):
    return [len(text) // 4 for text in texts]


async def bundle_of(tree: Snapshot, **changes) -> ContextBundle:
    suspect = localise(tree, Evidence(failures=(FAILED,)), num_suspects=1)[0]
    evidence = Evidence(failures=(FAILED,))
    return await pack(tree, suspect, evidence, width="wide", max_tokens=4000, count_tokens=count)


async def test_the_prompt_for_it_shows_specification_test_neighbours_and_what_may_be_used(tree):
    prompt = render_prompt(await bundle_of(tree), statement="Numbers must stay in range.")
    text = prompt.messages[-1].content
    for part in (
        "Numbers must stay in range.",
        "is not written yet",
        "import math\nLIMIT = 10",
        "assert clamp(12, 0, 7) == 7",
        "Code beside it",
        "def halve(value):",
        '\n    """Return the value held between low and high."""\n```',
    ):
        assert part in text
    assert "TABLE" not in text
    assert "NotImplementedError" not in text  # a small model would copy it
    assert prompt.prefill.endswith(
        'clamp(value, low, high):\n    """Return the value held between low and high."""'
    )


async def answered(tree: Snapshot, answer: str, tests: str = "") -> Applied | Refused:
    bundle = await bundle_of(tree)
    prompt = render_prompt(bundle)
    return apply_answer(tree, bundle, prompt, answer, tests=traits_of([tests], []))


async def test_an_answer_goes_on_behind_the_docstring(tree):
    done = await answered(tree, "\n    return max(low, min(value, high))\n```")
    assert done.files["numbers_.py"].decode() == MODULE.replace(
        "raise NotImplementedError", "return max(low, min(value, high))"
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("\n    pass\n", "the definition has no body"),
        ("\n    raise NotImplementedError('no')\n", "still not written"),
        ("\n    # TODO\n    return None\n", "still not written"),
        ("\n    if value == 12:\n        return 7\n    return 8", "recites"),
        ("I cannot do that.", "the definition"),
        ("", "has no body"),
    ],
)
async def test_an_answer_that_writes_nothing_is_refused(tree, answer, reason):
    done = await answered(tree, answer, tests="assert clamp(12, 0, 7) == 7")
    assert isinstance(done, Refused)
    assert reason in done.reason


async def test_a_value_of_the_test_in_a_new_function_is_a_risk_and_no_refusal(tree):
    answer = "\n    if value == 12:\n        return 7\n    return max(low, value)"
    done = await answered(tree, answer, tests="assert clamp(12, 0, 7) == 7")
    assert "the test's own input" in done.risk


# ---------------------------------------------------------------- imports


@pytest.mark.parametrize(
    ("code", "answer", "line"),
    [
        ("    return re.sub('a', 'b', x)", "", "import re"),
        ("    return Counter(x)", "", "from collections import Counter"),
        (
            "    return shorten(x, 3)",
            "from textwrap import shorten, fill\ndef f",
            "from textwrap import shorten",
        ),
        ("    return np.sum(x)", "import numpy as np\n", "import numpy as np"),
    ],
)
def test_what_an_answer_needs_is_imported_behind_the_other_imports(code, answer, line):
    base = '"""Doc."""\nimport os\n\n\ndef f(x):\n    pass\n'
    edited = base.replace("    pass", code)
    done = with_missing_imports(edited.encode(), base.encode(), answer).decode()
    assert done == edited.replace("import os\n", f"import os\n{line}\n")


@pytest.mark.parametrize(
    ("base", "code"),
    [
        ("import re\ndef f(x):\n    pass\n", "    return re.sub('a', 'b', x)"),
        ("from m import *\ndef f(x):\n    pass\n", "    return Counter(x)"),
        ("def f(x):\n    pass\n", "    return helper_of_mine(x)"),
        ("def f(x):\n    pass\n", "    return string"),  # a slip, not the module
        ("def f(x):\n    pass\n\n\ndef g():\n    return re.I\n", "    return re.sub('a', 'b', x)"),
        ("def f(x):\n    pass\n", "    return ("),
    ],
)
def test_nothing_is_imported_on_a_guess(base, code):
    edited = base.replace("    pass", code, 1).encode()
    assert with_missing_imports(edited, base.encode(), "import os\n") == edited


@pytest.mark.parametrize(
    ("code", "answer", "names"),
    [
        ("return lenx", "", ["lenx"]),
        ("return len(x) + TOP + e", "", []),  # a builtin, a name of the file, a word in its comment
        ("y = [z for z in x]; return y, __file__", "", []),
        ("return re.escape(x), chain(x)", "", []),  # what is imported where it is missing
        ("return np.sum(x)", "import numpy as np\n", []),
        ("return x.lenx(lenx=1)", "", []),  # attributes and keywords may be anything
    ],
)
def test_a_name_that_nothing_binds_is_told(code, answer, names):
    base = "TOP = 1  # e\n\n\ndef f(x):\n    pass\n"
    definition = f"def f(x):\n    {code}\n"
    assert unbound_names(definition, base.encode(), answer) == names
    assert unbound_names(definition, f"from m import *\n{base}".encode(), answer) == []


def test_an_import_at_the_top_stays_behind_the_comments():
    base = "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\ndef f(x):\n    pass\n"
    edited = base.replace("pass", "return math.pi").encode()
    done = with_missing_imports(edited, base.encode(), "").decode()
    assert done.splitlines()[:3] == [*base.splitlines()[:2], "import math"]


def test_a_class_to_be_written_may_get_any_methods(tmp_path):
    (tmp_path / "m.py").write_text("class Stack:\n    # TODO: Stack()\n    pass\n")
    suspect = Suspect(path="m.py", qualname="Stack", start_line=1, end_line=3, score=1, is_unwritten=True)
    text = (tmp_path / "m.py").read_text()
    bundle = ContextBundle(suspect=suspect, definition=text.rstrip(), header="class Stack:")
    prompt = Prompt((Message("user", ""),), prefill="```python\nclass Stack:")
    answer = "\n    def __init__(self):\n        self.items = []\n"
    done = apply_answer(Snapshot(tmp_path, commit=""), bundle, prompt, answer)
    assert isinstance(done, Applied)
