"""The line strategy: each statement can be asked for, and an answer lands in its place."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import ContextBundle, Suspect
from pipeline.draft.lines import gap_spans, quoted_line, replaced_line, statement_spans
from pipeline.draft.prompt import render_prompt

METHOD = '''\
    def pick(self, items, key=None):
        """Pick.

        Two lines.
        """
        # why
        if key is None and (
            items
        ):
            return items[0]
        elif key:
            best = max(
                items,
                key=key,
            )
        else:
            try:
                best = items[1]
            except IndexError as exc:
                raise ValueError from exc
        match best:
            case 1:
                return 0
        for item in items: print(item)
        return best
'''


def test_every_statement_is_asked_for_once_and_the_docstring_never() -> None:
    quoted = [quoted_line(METHOD, span).strip() for span in statement_spans(METHOD)]
    assert quoted == [
        "if key is None and (\n        items\n    ):",
        "return items[0]",
        "elif key:",
        "best = max(\n            items,\n            key=key,\n        )",
        "best = items[1]",
        "raise ValueError from exc",
        "match best:\n        case 1:",
        "return 0",
        "for item in items: print(item)",
        "return best",
    ]


def test_a_gap_is_asked_for_before_each_statement_and_its_answer_is_put_there() -> None:
    gaps = gap_spans(METHOD, ran={10: 0.0})
    assert gaps == [(10, 9)]
    assert quoted_line(METHOD, gaps[0]) == "        return items[0]"
    answer = "items = sorted(items)\n        return items[0]\n```"
    new = replaced_line(METHOD, gaps[0], answer, truncated=False).split("\n")
    old = METHOD.split("\n")
    assert [line.strip() for line in new[8:11]] == [
        old[8].strip(),
        "items = sorted(items)",
        "return items[0]",
    ]
    assert len(new) == len(old) + 1


def test_only_statements_that_the_failing_tests_ran_are_asked_for() -> None:
    spans = statement_spans(METHOD, ran={7: 0.0, 10: 0.0, 25: 0.0})
    assert [quoted_line(METHOD, span).strip()[:12] for span in spans] == [
        "if key is No",
        "return items",
        "return best",
    ]


def test_the_most_suspicious_statement_comes_first_and_ties_stay_in_order() -> None:
    spans = statement_spans(METHOD, ran={7: 0.5, 10: 0.4, 13: 0.2, 14: 0.9, 25: 0.5})
    assert [quoted_line(METHOD, span).strip()[:12] for span in spans] == [
        "best = max(\n",
        "if key is No",
        "return best",
        "return items",
    ]


def test_what_does_not_parse_has_no_statements() -> None:
    assert statement_spans("def f(:\n    return 1\n") == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("return x + 1", "    return x + 1"),
        (" return x + 1", "    return x + 1"),  # the tokeniser likes a space behind the indentation
        ("if x:\n        return 1\n    return 2\n```\nBecause", "    if x:\n        return 1\n    return 2"),
        (" if x:\n         return 1", "    if x:\n        return 1"),
        (" if x:\n        return 1", "    if x:\n        return 1"),
        ("y = x\n    z = 0", "    y = x"),  # z = 0 is the next line of the original
    ],
)
def test_an_answer_takes_the_place_of_the_statement(answer: str, expected: str) -> None:
    definition = "def f(x):\n    return x\n    z = 0"
    assert replaced_line(definition, (2, 2), answer, truncated=False) == f"def f(x):\n{expected}\n    z = 0"


def test_of_a_truncated_answer_the_first_line_counts() -> None:
    new = replaced_line("def f(x):\n    return x", (2, 2), "return 2\n    return 3\n    ret", truncated=True)
    assert new == "def f(x):\n    return 2"


def test_the_prompts_of_a_definition_differ_in_their_prefill_alone() -> None:
    suspect = Suspect(path="a.py", qualname="C.pick", start_line=1, end_line=25, score=1.0)
    bundle = ContextBundle(suspect=suspect, definition=METHOD, header="    def pick(self, items, key=None):")
    prompts = [render_prompt(bundle, span=span) for span in statement_spans(METHOD)]
    assert len({prompt.messages for prompt in prompts}) == 1
    assert len({prompt.prefill for prompt in prompts}) == len(prompts)
    assert prompts[1].prefill.endswith("        return items[0]\n```\nIt must be:\n```python\n       ")


@given(st.text(), st.booleans())
def test_no_answer_makes_it_raise_or_touches_the_lines_before(answer: str, truncated: bool) -> None:
    spans = statement_spans(METHOD)
    new = replaced_line(METHOD, spans[3], answer, truncated=truncated)
    before = "\n".join(METHOD.split("\n")[: spans[3][0] - 1])
    assert new.startswith(before.removeprefix("    ").replace("\n    ", "\n"))


def test_an_unchanged_statement_gives_the_same_program() -> None:
    for span in statement_spans(METHOD):
        same = replaced_line(METHOD, span, quoted_line(METHOD, span).strip(" "), truncated=False)
        assert ast.dump(ast.parse(same)) == ast.dump(
            ast.parse("\n".join(line[4:] for line in METHOD.split("\n")))
        )


@pytest.mark.parametrize(
    "answer",
    [
        " if not x:\n        return None",  # a space too many, and then at the indentation that it was shown
        " if not x:\n         return None",  # a space too many on every line
        "if not x:\n        return None",
        "    if not x:\n        return None",  # the indentation once more
    ],
)
def test_an_answer_of_two_lines_is_read_however_it_is_indented(answer):
    definition = "def f(x):\n    if x:\n        pass\n    return 1"
    assert replaced_line(definition, (2, 2), answer, truncated=False) == (
        "def f(x):\n    if not x:\n        return None\n        pass\n    return 1"
    )
