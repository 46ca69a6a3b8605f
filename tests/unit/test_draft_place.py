"""An edit that quotes lines lands where they stand, exactly, or nowhere; a miss shows the nearest lines."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.draft.blocks import read_blocks
from pipeline.draft.diffs import read_diff
from pipeline.draft.place import MissedError, Replacement, replace_in
from pipeline.draft.source import read_source

FILE = '''\
class Counter:
    """Counts."""

    def bump(self, by):
        self.n -= by
        return self.n

    def drop(self, by):
        self.n += by
        return self.n


def run(values):
    total = 0
    for value in values:
        total += value
    return total
'''


def edited(search: str, replace: str, *, source: str | bytes = FILE, likely: range = range(0)) -> str:
    data = source.encode() if isinstance(source, str) else source
    wanted = Replacement(tuple(search.split("\n")), tuple(replace.split("\n")))
    return replace_in(read_source(data), [wanted], likely=likely, name="m.py").decode()


@pytest.mark.parametrize(
    ("search", "replace"),
    [
        ("        self.n -= by", "        self.n += by + 0"),  # exact
        ("        self.n -= by   ", "        self.n += by + 0"),  # white space at the end
        ("self.n -= by", "self.n += by + 0"),  # no indentation
        (
            "    def bump(self, by):\n        self.n -= by",
            "    def bump(self, by):\n        self.n += by + 0",
        ),
        ("def bump(self, by):\n    self.n -= by", "def bump(self, by):\n    self.n += by + 0"),  # shifted
        ("        self.n  -=  by", "        self.n += by + 0"),  # white space within
        ("\n        self.n -= by\n", "\n        self.n += by + 0\n"),  # blank lines around both
        (
            "class Counter:\n...\n        self.n -= by\n        return self.n",
            "class Counter:\n...\n        self.n += by + 0\n        return self.n",
        ),
        (
            "class Counter:\n    # ... existing code ...\n    def bump(self, by):\n        self.n -= by",
            "class Counter:\n    # ... existing code ...\n    def bump(self, by):\n        self.n += by + 0",
        ),
        (
            "    def bump(self, by_):\n        self.n -= by",
            "    def bump(self, by_):\n        self.n += by + 0",
        ),  # alike
    ],
)
def test_every_rung_of_the_ladder_leads_to_the_same_file(search, replace):
    assert edited(search, replace) == FILE.replace("self.n -= by", "self.n += by + 0")


@pytest.mark.parametrize(
    ("search", "why"),
    [
        ("        return self.n", "stand in m.py at lines 6, 10"),
        ("    def raise_(self, count):\n        self.m *= count", "the nearest lines are"),
        ("", "quotes no line"),
        ("\n  \n", "quotes no line"),
        ("class Counter:\n...\n        return self.n", "stand in m.py at lines"),
    ],
)
def test_what_fits_nowhere_or_twice_is_refused_and_says_where(search, why):
    with pytest.raises(MissedError, match=why):
        edited(search, search.replace("return", "yield") + "\n        x = 1")


def test_of_equal_places_the_one_asked_about_is_meant():
    new = edited("        return self.n", "        return 0", likely=range(7, 10))
    assert new.splitlines()[9] == "        return 0"
    assert new.splitlines()[5] == "        return self.n"


def test_a_miss_shows_the_nearest_lines_with_their_numbers():
    with pytest.raises(MissedError) as missed:
        edited("    count = 1\n    while value in list:\n        total = total * value", "    return 1")
    assert "   15      for value in values:" in str(missed.value)


def test_two_edits_of_one_line_are_refused():
    wanted = [Replacement(("    total = 0",), (f"    total = {i}",)) for i in (1, 2)]
    with pytest.raises(MissedError, match="two edits want line 14"):
        replace_in(read_source(FILE.encode()), wanted, likely=range(0), name="m.py")


def test_a_new_line_left_of_the_margin_is_refused():
    with pytest.raises(MissedError, match="left of the margin"):
        edited("            total = 0", "            total = 0\n    x = 1", source=FILE)


def test_tabs_stay_tabs_where_the_model_writes_spaces():
    source = "def f(x):\n\tif x:\n\t\treturn 1\n\treturn 2\n"
    assert edited(
        "    if x:\n        return 1", "    if x:\n        return 3", source=source
    ) == source.replace("return 1", "return 3")


def test_a_file_keeps_its_line_ends_and_lacks_the_last_one_as_before():
    source = b"a = 1\r\nb = 2\r\nc = 3"
    assert edited("b = 2", "b = 4\nd = 5", source=source).encode() == b"a = 1\r\nb = 4\r\nd = 5\r\nc = 3"
    assert edited("c = 3", "c = 4\nd = 5", source=source).encode() == b"a = 1\r\nb = 2\r\nc = 4\r\nd = 5"
    assert edited("b = 2\nc = 3", "b = 2", source=source).encode() == b"a = 1\r\nb = 2"


# ---------------------------------------------------------------- answers


def test_blocks_name_their_files_on_the_line_before_them():
    answer = (
        "Both files:\n\n`a.py`\n```python\n<<<<<<< SEARCH\nx\n=======\ny\n>>>>>>> REPLACE\n"
        "<<<<<<< SEARCH\nz\n=======\n>>>>>>> REPLACE\n```\n"
        "**./pkg/b c.py**\n<<<<<<< SEARCH\n1\n=======\n2\n>>>>>>> REPLACE\n"
    )
    assert [(r.path, r.search, r.replace) for r in read_blocks(answer)] == [
        ("a.py", ("x",), ("y",)),
        ("a.py", ("z",), ()),
        ("pkg/b c.py", ("1",), ("2",)),
    ]


def test_an_answer_may_go_on_from_the_prefill_or_begin_anew():
    prefill = "```\na.py\n<<<<<<< SEARCH\n"
    rest = "x\n=======\ny\n>>>>>>> REPLACE\nb.py\n<<<<<<< SEARCH\n1\n=======\n2\n>>>>>>> REPLACE\n"
    assert [r.path for r in read_blocks(rest, prefill)] == ["a.py", "b.py"]
    assert read_blocks(prefill + rest, prefill) == read_blocks(rest, prefill)
    prefill = "```diff\n--- a/a.py\n+++ b/a.py\n@@"
    rest = " -1 +1 @@\n-x\n+y\n--- a/b.py\n+++ b/b.py\n@@ @@\n-1\n+2\n"
    assert [r.path for r in read_diff(rest, prefill)] == ["a.py", "b.py"]
    assert read_diff("Here it is:\n" + prefill + rest, prefill) == read_diff(rest, prefill)


def test_a_diff_is_read_by_its_lines_whatever_its_numbers_say():
    answer = (
        "Sure:\n```diff\ndiff --git a/m.py b/m.py\n--- a/m.py\n+++ b/m.py\n"
        "@@ -90,3 +4 @@ def f():\n a\n-b\n--- c\n+B\n\n d\n"
        "@@ garbage @@\n x\n+y\n\\ No newline at end of file\n```\nDone.\n"
    )
    assert [(r.path, r.search, r.replace) for r in read_diff(answer)] == [
        ("m.py", ("a", "b", "-- c", "", "d"), ("a", "B", "", "d")),
        ("m.py", ("x",), ("x", "y")),
    ]


def test_prose_is_no_diff():
    assert read_diff("I would change a - b to a + b.\n@@ see above\n--- that is all") == ()


# ---------------------------------------------------------------- any edit, with noise

WORDS = st.sampled_from(["a = 1", "b = f(a)", "return a", "if a:", "else:", "pass", "x.y(z)", "# why"])
LINE = st.builds(
    lambda depth, text: "    " * depth + text if text else "", st.integers(0, 3), WORDS | st.just("")
)
FILES = st.lists(LINE, min_size=1, max_size=25)
EDIT = st.tuples(st.integers(0, 30), st.integers(0, 3), st.lists(LINE, max_size=3))
EDITS = st.lists(EDIT, min_size=1, max_size=3)
NOISE = st.fixed_dictionaries(
    {
        "shift": st.sampled_from([0, 0, -4, 2, 4]),
        "trailing": st.booleans(),
        "crlf": st.booleans(),
        "number": st.integers(1, 99),
    }
)


def make_edit(lines: list[str], edits) -> list[str]:
    new = list(lines)
    for at, num_gone, come in edits:
        at = min(at, len(new))
        new[at : at + num_gone] = come
    return new


def as_blocks(old: list[str], new: list[str], num_context: int) -> list[tuple[list[str], list[str]]]:
    """Return the quoted halves of every changed place, with lines of context around."""
    groups = difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(num_context)
    return [(old[g[0][1] : g[-1][2]], new[g[0][3] : g[-1][4]]) for g in groups]


def rendered(kind: str, blocks, noise) -> str:
    """Return the edit as a model would write it, with line ends and numbers that are not the file's."""
    text = "```\nm.py\n" if kind == "blocks" else "```diff\n--- a/m.py\n+++ b/m.py\n"
    for search, new in blocks:
        if kind == "blocks":
            parts = ["<<<<<<< SEARCH", *search, "=======", *new, ">>>>>>> REPLACE"]
        else:
            number = noise["number"]
            header = f"@@ -{number},{number % 7} +1,{number % 5} @@"
            parts = [header, *(line[0] + line[2:] for line in difflib.ndiff(search, new) if line[0] != "?")]
        text += "".join(f"{part}\n" for part in parts)
    return (text + "```\n").replace("\n", "\r\n" if noise["crlf"] else "\n")


def noisy(lines: list[str], shift: int, *, trailing: bool) -> list[str]:
    moved = [
        " " * max(shift, 0) + line.removeprefix(" " * max(-shift, 0)) if line else line for line in lines
    ]
    return [line + "  " if trailing and line else line for line in moved]


def stands_in(lines: list[str], search: list[str]) -> bool:
    quote = "\n".join(line.rstrip() for line in search).strip("\n")
    return f"\n{quote}\n" in "\n".join(["", *lines, ""])


def least_indent(*halves: list[str]) -> int:
    return min((len(line) - len(line.lstrip()) for half in halves for line in half if line), default=0)


@given(FILES, EDITS, st.sampled_from(["blocks", "diff"]), st.integers(0, 3), NOISE, st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_edit_in_any_format_lands_exactly_or_is_refused(lines, edits, kind, num_context, noise, in_crlf):
    new = make_edit(lines, edits)
    assume(new != lines)
    blocks = as_blocks(lines, new, num_context)
    shift = max(noise["shift"], -min((least_indent(*halves) for halves in blocks), default=0))
    halves = [tuple(noisy(half, shift, trailing=noise["trailing"]) for half in both) for both in blocks]
    # Lines indented otherwise may be a quote of another place, to the letter: nobody could tell.
    assume(not shift or not any(stands_in(lines, search) for search, _ in halves))
    answer = rendered(kind, halves, noise)
    found = (read_blocks if kind == "blocks" else read_diff)(answer)
    end = "\r\n" if in_crlf else "\n"
    base, wanted = ("".join(line + end for line in text).encode() for text in (lines, new))
    try:
        result = replace_in(read_source(base), found, likely=range(0), name="m.py")
    except MissedError:
        return
    if result != base:
        assert result == wanted


@given(FILES, EDITS, st.sampled_from(["blocks", "diff"]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_an_edit_that_quotes_a_place_of_its_own_is_never_refused(lines, edits, kind, in_crlf):
    lines = [f"{line}  # {i}" for i, line in enumerate(lines)]  # no two lines are equal
    new = make_edit(lines, edits)
    assume(new != lines)
    blocks = as_blocks(lines, new, 2)
    answer = rendered(kind, blocks, {"crlf": False, "number": 50})
    found = (read_blocks if kind == "blocks" else read_diff)(answer)
    end = "\r\n" if in_crlf else "\n"
    base, wanted = ("".join(line + end for line in text).encode() for text in (lines, new))
    assert replace_in(read_source(base), found, likely=range(0), name="m.py") == wanted
