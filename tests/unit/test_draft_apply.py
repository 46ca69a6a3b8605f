"""An answer becomes exactly the edit it means, in the file's own bytes, or is refused with a reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import ContextBundle, Suspect
from pipeline.draft.apply import Applied, Refused, apply_answer
from pipeline.draft.edited import TestTraits
from pipeline.draft.prompt import render_prompt
from pipeline.draft.syntax import program_fingerprint
from pipeline.snapshot import Snapshot

MODULE = '''\
"""A module."""

LIMIT = 3


def add(a, b=0):
    """Add two numbers."""
    return a - b


class Counter:
    """Counts."""

    step = 1

    @property
    def total(self):
        return self.n - 1

    def bump(self, by):
        text = """left
edge"""
        self.n -= by
        return text
'''


def bundle_of(source: str, qualname: str, path: str = "pkg/mod.py") -> ContextBundle:
    """Pack a definition as the context stage would."""
    node: ast.AST = ast.parse(source)
    for name in qualname.split("."):
        node = next(n for n in ast.walk(node) if getattr(n, "name", None) == name)
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    lines = source.split("\n")
    body = node.body[0].lineno
    return ContextBundle(
        suspect=Suspect(path=path, qualname=qualname, start_line=start, end_line=node.end_lineno, score=1.0),
        definition="\n".join(lines[start - 1 : node.end_lineno]),
        header="\n".join(lines[start - 1 : max(body - 1, start)]),
    )


def tree_of(files: dict[str, bytes]) -> Snapshot:
    """Return a tree that is in memory alone."""
    return Snapshot(Path("/nowhere"), "", changed=files)


def apply(qualname: str, answer: str, *, source: str = MODULE, data: bytes | None = None, **options):
    bundle = bundle_of(source, qualname)
    tree = tree_of({"pkg/mod.py": source.encode() if data is None else data})
    return apply_answer(tree, bundle, render_prompt(bundle), answer, **options)


def reason(result: Applied | Refused) -> str:
    assert isinstance(result, Refused), result
    return result.reason


def content(result: Applied | Refused) -> str:
    return content_bytes(result).decode()


def content_bytes(result: Applied | Refused) -> bytes:
    assert isinstance(result, Applied), result
    [data] = result.files.values()
    return data


GOOD = '\n    """Add two numbers."""\n    return a + b\n'
FIXED = MODULE.replace("return a - b", "return a + b")


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        GOOD + "```\n\nThis adds them.",  # prose after the fence
        "\n    return a + b\n",  # the docstring is put back
        '\n    """Adds two numbers, now rightly."""\n    return a + b\n',  # the docstring is not reworded
        GOOD + "\n# Test it\nprint(add(1, 2))\n",  # code after the definition
        GOOD + "\n\ndef other():\n    return 1\n",
        "Sure! Here is it:\n```python\ndef add(a, b=0):\n    return a + b\n```\n",  # the prefill was dropped
        "```\ndef add(a, b=0):\n    return a + b\n```",
        "def add(a, b=0):\n    return a + b",  # no fence at all
        "\n  return a + b\n".replace("  return", "    return"),
        "It was\n```python\ndef add(a, b=0):\n    return a - b\n```\nand should be\n"
        "```python\ndef add(a, b=0):\n    return a + b\n```",  # quotes the old code first
    ],
)
def test_the_definition_is_found_in_whatever_surrounds_it(answer):
    assert content(apply("add", answer)) == FIXED


def test_a_method_goes_back_to_its_indentation_and_strings_keep_theirs():
    answer = '\n    text = """left\nedge"""\n    self.n += by\n    return text\n'
    assert content(apply("Counter.bump", answer)) == MODULE.replace("self.n -= by", "self.n += by")


def test_a_method_is_found_inside_a_whole_class():
    answer = "```python\nclass Counter:\n    @property\n    def total(self):\n        return self.n\n```"
    assert content(apply("Counter.total", answer)) == MODULE.replace("return self.n - 1", "return self.n")


def test_decorators_that_the_answer_leaves_out_are_kept():
    answer = "```python\ndef total(self):\n    return self.n\n```"
    assert content(apply("Counter.total", answer)) == MODULE.replace("return self.n - 1", "return self.n")


def test_a_new_docstring_is_kept_on_request():
    answer = '\n    """New words."""\n    return a + b\n'
    assert '"""New words."""' in content(apply("add", answer, keep_docstring=False))


@pytest.mark.parametrize(
    ("qualname", "answer", "why"),
    [
        ("add", "I cannot help with that.", "does not parse"),  # the prefill makes it a broken definition
        ("add", "\n    return a +\n", "does not parse"),
        ("add", "", "does not parse"),
        ("add", "\n    pass\n", "no body"),
        ("add", '\n    """Add."""\n', "no body"),
        ("add", '\n    """Add two numbers."""\n    return a - b  # fixed\n', "changes nothing"),
        ("add", "```python\ndef add(x, b=0):\n    return x\n```", "changes the parameters"),
        ("add", "```python\ndef add(a):\n    return a\n```", "changes the parameters"),
        ("add", "```python\ndef add(a, b):\n    return a + b\n```", "requires a parameter"),
        ("add", "```python\ndef add(a, b=0, *, c):\n    return a + b\n```", "requires the parameter c"),
        ("add", "```python\nasync def add(a, b=0):\n    return a + b\n```", "async"),
        ("add", "```python\nclass add:\n    x = 1\n```", "between a class and a function"),
        (
            "Counter",
            "```python\nclass Counter:\n    def bump(self, by):\n        return 1\n```",
            "method total",
        ),
        ("Counter", "```python\nclass Counter(dict):\n    x = 1\n```", "base classes"),
        (
            "add",
            "\n    if 'PYTEST_CURRENT_TEST' in os.environ:\n        return 3\n    return 4\n",
            "being tested",
        ),
        ("add", "\n    return 3 if 'pytest' in sys.modules else sys.modules['pytest']\n", "being tested"),
        ("add", "\n    import test_add\n    return test_add.expected\n", "names the failing test"),
        ("add", "\n    return a + b\n    yield\n    nonlocal x\n", "does not compile"),
        ("add", "\n    return 'a\0b'\n", "does not parse"),
        ("add", "\n    return a + bb\n", "it reads bb, which nothing binds"),
    ],
)
def test_what_cannot_be_a_repair_is_refused_in_plain_words(qualname, answer, why):
    assert why in reason(apply(qualname, answer, tests=TestTraits(module_names=("test_add",))))


def test_an_answer_cut_off_inside_the_definition_is_refused():
    assert "cut off" in reason(apply("add", "\n    if a:\n        return a + b", truncated=True))


def test_an_answer_cut_off_after_the_definition_is_used():
    assert content(apply("add", GOOD + "\ndef test_add():\n    assert add(1,", truncated=True)) == FIXED


def test_an_endless_loop_of_lines_is_cut():
    answer = GOOD + "    # check\n    print(a)\n" * 40 + "    # che"
    assert content(apply("add", answer, truncated=True)).count("print(a)") <= 1


def test_a_loop_that_the_engine_cut_is_dropped():
    answer = GOOD + "    # check\n    print(a)\n" * 3 + "    # che"
    assert content(apply("add", answer, truncated=True)).count("print(a)") <= 1


def test_crlf_files_keep_their_line_ends():
    data = MODULE.replace("\n", "\r\n").encode()
    assert content_bytes(apply("add", GOOD, data=data)) == FIXED.replace("\n", "\r\n").encode()


def test_latin1_files_keep_their_bytes():
    source = "# -*- coding: latin-1 -*-\nNAME = 'é'\n\n" + MODULE
    result = apply("add", GOOD, source=source, data=source.encode("latin-1"))
    assert content_bytes(result) == source.replace("a - b", "a + b").encode("latin-1")


def test_characters_that_the_encoding_lacks_are_refused():
    source = "# -*- coding: latin-1 -*-\n" + MODULE
    answer = "\n    return a + b  # \u4e2d\n"
    assert "encoding" in reason(apply("add", answer, source=source, data=source.encode("latin-1")))


def test_a_byte_order_mark_stays():
    result = apply("add", GOOD, data=b"\xef\xbb\xbf" + MODULE.encode())
    assert content_bytes(result) == b"\xef\xbb\xbf" + FIXED.encode()


def test_tabs_stay_tabs_when_the_model_writes_spaces():
    source = "class A:\n\tdef f(self, x):\n\t\tif x:\n\t\t\treturn 1\n\t\treturn 2\n"
    answer = "\n    if x:\n        return 3\n    return 2\n"
    assert content(apply("A.f", answer, source=source)) == source.replace("return 1", "return 3")


def test_a_file_without_a_newline_at_its_end_stays_so():
    source = "def f(x):\n    return 1"
    assert content(apply("f", "\n    return 2\n", source=source)) == "def f(x):\n    return 2"


def test_form_feeds_do_not_shift_the_lines():
    source = "import os\n\x0c\n" + MODULE
    assert content(apply("add", GOOD, source=source)) == source.replace("a - b", "a + b")


def test_a_definition_that_does_not_parse_can_be_repaired():
    broken = MODULE.replace("return a - b", "return a +")
    suspect = Suspect(path="pkg/mod.py", qualname="add", start_line=6, end_line=8, score=1.0)
    bundle = ContextBundle(
        suspect=suspect,
        definition="\n".join(broken.split("\n")[5:8]),
        header="def add(a, b=0):",
    )
    result = apply_answer(
        tree_of({"pkg/mod.py": broken.encode()}), bundle, render_prompt(bundle), "\n    return a + b\n"
    )
    assert ast.parse(content(result))
    assert "return a + b" in content(result)


def test_a_broken_header_is_left_to_the_model():
    broken = "def add(a, b=0)\n    return a + b\n"
    suspect = Suspect(path="m.py", qualname="add", start_line=1, end_line=2, score=1.0)
    bundle = ContextBundle(suspect=suspect, definition=broken, header="def add(a, b=0)")
    prompt = render_prompt(bundle)
    assert prompt.prefill == "```python\n"
    tree = tree_of({"m.py": broken.encode()})
    fixed = "def add(a, b=0):\n    return a + b\n"
    assert content(apply_answer(tree, bundle, prompt, fixed)) == fixed


def block(search: str, replace: str) -> str:
    return f"<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


@pytest.mark.parametrize(
    "search",
    [
        "LIMIT = 3",
        "LIMIT  =  3 ",  # by its words
        '"""A modul."""\n\nLIMIT = 3',  # by likeness
    ],
)
def test_search_replace_finds_its_place(search):
    answer = block(search, search.replace("3", "4").replace("modul.", "module."))
    bundle = ContextBundle(
        suspect=Suspect(path="pkg/mod.py", qualname="", start_line=1, end_line=24, score=1.0),
        definition=MODULE,
        header="",
    )
    result = apply_answer(tree_of({"pkg/mod.py": MODULE.encode()}), bundle, render_prompt(bundle), answer)
    assert "".join(content(result).split()) == "".join(MODULE.replace("LIMIT = 3", "LIMIT = 4").split())


def test_search_replace_keeps_the_indentation_that_the_model_left_out():
    answer = block("self.n -= by", "self.n += by")
    assert content(apply("Counter.bump", answer)) == MODULE.replace("self.n -= by", "self.n += by")


def test_of_equal_places_the_one_near_the_suspect_is_meant():
    source = "def f():\n    return 1\n\n\ndef g():\n    return 1\n"
    assert content(apply("g", block("    return 1", "    return 2"), source=source)) == (
        "def f():\n    return 1\n\n\ndef g():\n    return 2\n"
    )


def test_a_missed_search_shows_the_nearest_lines():
    why = reason(apply("add", block("def subtract(x, y):\n    return x * y", "pass")))
    assert "the nearest lines are" in why
    assert any(line in why for line in MODULE.split("\n") if line.strip())


@given(st.text(max_size=400))
@settings(max_examples=150, deadline=None)
def test_no_text_makes_it_raise(answer):
    assert isinstance(apply("add", answer), Applied | Refused)


PIECES = st.sampled_from(
    [
        "\n",
        "    ",
        "```",
        "```python\n",
        "def add(a, b=0):",
        "return a",
        "(",
        ")",
        '"""',
        "\\",
        "\t",
        "\r",
        "\x0c",
        "@",
        "class add:",
        "\ud800",
        "\0",
        "<<<<<<< SEARCH\n",
        "=======\n",
        ">>>>>>> REPLACE",
        "LIMIT = 3\n",
        "lambda: " * 50,
        "(" * 250,
        "async ",
        "#",
    ]
)


@given(st.lists(PIECES, max_size=25), st.booleans(), st.sampled_from(["add", "Counter", "Counter.bump"]))
@settings(max_examples=300, deadline=None)
def test_no_jumble_of_code_makes_it_raise(pieces, truncated, qualname):
    result = apply(qualname, "".join(pieces), truncated=truncated)
    if isinstance(result, Applied):
        compile(content_bytes(result), "m.py", "exec")


def test_deep_nesting_is_refused_and_does_not_crash():
    assert reason(apply("add", "\n    return " + "(" * 5000 + ")" * 5000))
    assert reason(apply("add", "\n    return " + "-" * 100_000 + "1"))


def test_layout_and_comments_do_not_make_another_candidate():
    first = apply("add", "\n    return a + b\n")
    second = apply("add", "\n    # better\n    return (a\n            + b)\n")
    assert mark(first) == mark(second)


def mark(result: Applied | Refused) -> str:
    assert isinstance(result, Applied), result
    return program_fingerprint(result.files, lambda _: MODULE.encode())


def test_the_code_is_what_the_answer_made_of_the_definition():
    result = apply("Counter.total", "```python\ndef total(self):\n    return self.n\n```")
    assert isinstance(result, Applied)
    assert result.code == "@property\ndef total(self):\n    return self.n"
