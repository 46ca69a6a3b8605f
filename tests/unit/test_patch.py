"""The patch is exactly what git applies."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.change import change_between
from pipeline.patch import diff_of, make_patch, new_file_diff, unified_diff

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


@pytest.mark.parametrize("name", ["a.py", "tests/a b.py"])
@pytest.mark.parametrize("data", [b"a\n", b"a\nb", b"# \xc3\xa9\n\nx\n"])
def test_git_applies_the_diff_of_a_new_file(tmp_path, name, data):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    command = ["git", "-C", str(tmp_path), "apply", "--whitespace=nowarn", "-"]
    subprocess.run(command, input=new_file_diff(name, data).encode(), check=True)
    assert (tmp_path / name).read_bytes() == data


def test_equal_files_have_an_empty_diff():
    assert unified_diff("m.py", BASE, BASE) == ""


def test_patch_counts_removed_and_added_lines_of_all_files():
    base = {"m.py": BASE, "n.py": b"x\n"}
    new = {"m.py": BASE.replace(b"line 5\n", b"five\nmore\n"), "n.py": b""}
    patch = make_patch("r1c00", change_between(base, new), base.__getitem__)
    assert (patch.num_changed_lines, patch.paths) == (4, ("m.py", "n.py"))


def test_git_applies_a_diff_of_several_files(tmp_path):
    base = {"b.py": BASE, "a b.py": b"x\ny", "c.py": b"# \xe9\n"}
    new = {"b.py": BASE.replace(b"line 5\n", b""), "a b.py": b"x\nz", "c.py": b"# \xe8\n"}
    for path, data in base.items():
        (tmp_path / path).write_bytes(data)
    git_apply(tmp_path, "b.py", BASE, diff_of(change_between(base, new), base.__getitem__))
    assert {path: (tmp_path / path).read_bytes() for path in new} == new


LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\r\n", b"  d\n", b"\n"]), max_size=30)


@given(LINES, LINES)
@settings(max_examples=200)
def test_whatever_the_files_are_unidiff_reads_the_patch(old, new):
    base, after = {"m.py": b"".join(old)}, {"m.py": b"".join(new)}
    make_patch("r1c00", change_between(base, after), base.__getitem__)  # asserts it
