"""The model sees the definition, the failing test and the failure, and begins its answer with the header."""

from __future__ import annotations

import dataclasses

from pipeline.core import ContextBundle, Suspect
from pipeline.draft.prompt import Feedback, render_prompt

BUNDLE = ContextBundle(
    suspect=Suspect(path="pkg/mod.py", qualname="A.f", start_line=4, end_line=6, score=1.0),
    definition="    @staticmethod\n    def f(x):\n        return x - 1",
    header="    @staticmethod\n    def f(x):",
    imports="import os",
    enclosing="class A:\n    n = 1",
    related=("def g():\n    pass",),
    failing_tests=("def test_f():\n    assert A.f(1) == 2",),
    failure="E   assert 0 == 2",
)


def user_text(bundle: ContextBundle = BUNDLE, **options) -> str:
    return render_prompt(bundle, **options).messages[-1].content


def test_every_part_of_the_bundle_is_shown():
    text = user_text(statement="f is off by two")
    for part in (
        "import os",
        "class A:",
        "return x - 1",
        "def g():",
        "A.f(1) == 2",
        "assert 0 == 2",
        "off by two",
    ):
        assert part in text


def test_the_answer_begins_with_the_dedented_header_so_the_name_cannot_change():
    assert render_prompt(BUNDLE).prefill == "```python\n@staticmethod\ndef f(x):"


def test_empty_parts_leave_no_empty_fences():
    bare = dataclasses.replace(BUNDLE, imports="", enclosing="", related=(), failing_tests=(), failure="")
    text = user_text(bare)
    assert text.count("```") == 2
    assert "fails" not in text


def test_feedback_shows_the_attempt_and_its_error():
    text = user_text(feedback=Feedback("def f(x):\n    return y", "NameError: y"))
    assert "return y" in text
    assert "NameError: y" in text


def test_braces_in_code_are_not_template_syntax():
    bundle = dataclasses.replace(BUNDLE, definition="def f(x):\n    return '{{ x }} {% if %}'")
    assert "{{ x }} {% if %}" in user_text(bundle)


def test_a_module_is_edited_in_blocks():
    module = dataclasses.replace(BUNDLE, suspect=dataclasses.replace(BUNDLE.suspect, qualname=""), header="")
    assert "<<<<<<< SEARCH" in user_text(module)
    assert render_prompt(module).prefill == "```\npkg/mod.py\n<<<<<<< SEARCH\n"
