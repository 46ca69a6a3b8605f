"""The patch is exactly what git applies, and no larger than the tests need."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.patch import apply_hunks, count_changed_lines, hunks_of, make_patch, minimise, unified_diff

BASE = b"".join(b"line %d\n" % i for i in range(40))


def git_apply(tmp_path, name: str, old: bytes, diff: str) -> bytes:
    target = tmp_path / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(old)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    command = ["git", "-C", str(tmp_path), "apply", "--whitespace=nowarn", "-"]
    subprocess.run(command, input=diff.encode(), check=True, capture_output=True)
    return target.read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (BASE, BASE.replace(b"line 5\n", b"five\n")),
        (BASE, BASE.replace(b"line 5\n", b"five\n").replace(b"line 30\n", b"")),  # two groups, shifted
        (BASE, b"first\n" + BASE + b"last\n"),  # at both ends
        (b"a\nb", b"a\nc"),  # no newline at the end, before and after
        (b"a\nb\n", b"a\nb"),  # the newline at the end goes
        (b"a\nb", b"a\nb\n"),  # and comes
        (b"a\r\nb\r\nc\r\n", b"a\r\nB\r\nc\r\n"),  # CRLF
        (b"a\x0cb\nx\n", b"a\x0cb\ny\n"),  # a form feed is no line end
        (b"# \xe9\nx = 1\n", b"# \xe9\nx = 2\n"),  # latin-1 beside the change
        (b"# \xe9\n" + BASE, b"# \xe9\n" + BASE + b"x\n"),  # latin-1 far from the change
        ("# \u00e9\u2028\nx\n".encode(), "# \u00e9\u2028\ny\n".encode()),
        (b"", b"x\n"),  # an empty file
    ],
)
def test_git_applies_the_diff_byte_for_byte(tmp_path, old, new):
    assert git_apply(tmp_path, "pkg/module.py", old, unified_diff("pkg/module.py", old, new)) == new


def test_git_applies_the_diff_of_a_path_with_a_space(tmp_path):
    new = BASE.replace(b"line 5\n", b"five\n")
    assert git_apply(tmp_path, "my pkg/a b.py", BASE, unified_diff("my pkg/a b.py", BASE, new)) == new


def test_non_utf8_lines_far_from_the_change_still_give_a_readable_diff():
    old = b"# \xe9\n" + BASE
    assert "+x\n" in unified_diff("m.py", old, old + b"x\n")


def test_equal_files_have_an_empty_diff():
    assert unified_diff("m.py", BASE, BASE) == ""


def test_patch_counts_removed_and_added_lines():
    new = BASE.replace(b"line 5\n", b"five\nmore\n")
    patch = make_patch("r1c00", "m.py", BASE, new)
    assert (patch.num_changed_lines, patch.paths) == (3, ("m.py",))


LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\r\n", b"  d\n", b"\n"]), max_size=30)


@given(LINES, LINES)
@settings(max_examples=200)
def test_all_hunks_together_make_the_new_file(old, new):
    before, after = b"".join(old), b"".join(new)
    hunks = hunks_of(before, after)
    assert apply_hunks(before, hunks) == after
    assert count_changed_lines(before, after) >= abs(len(old) - len(new))
    if hunks:
        make_patch("r1c00", "m.py", before, after)  # asserts that unidiff reads it


async def test_minimise_drops_the_hunks_that_the_tests_do_not_need():
    new = BASE.replace(b"line 5\n", b"fix\n").replace(b"line 20\n", b"noise\n").replace(b"line 30\n", b"")

    async def needs_the_fix(content: bytes) -> bool:
        return b"fix\n" in content

    assert await minimise(BASE, new, needs_the_fix, max_trials=8) == BASE.replace(b"line 5\n", b"fix\n")


async def test_minimise_stops_at_its_trials_and_never_tries_the_base():
    new = BASE.replace(b"line 5\n", b"fix\n").replace(b"line 20\n", b"noise\n").replace(b"line 30\n", b"")
    tried = []

    async def anything(content: bytes) -> bool:
        tried.append(content)
        return True

    await minimise(BASE, new, anything, max_trials=8)
    assert BASE not in tried
    tried.clear()
    await minimise(BASE, new, anything, max_trials=1)
    assert len(tried) == 1
