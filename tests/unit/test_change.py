"""A candidate's change is kept against the base, file by file, and changes that do not clash become one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.change import apply_change, change_between, merged, num_changed_lines

A = b"".join(b"a%d\n" % i for i in range(9))
B = b"b0\r\nb1\r\nb2"
BASE = {"a.py": A, "b.py": B}


def change(**files: bytes):
    new = {name.replace("_", "."): data for name, data in files.items()}
    return change_between(BASE, {**BASE, **new})


def test_only_the_files_that_differ_are_in_a_change():
    assert [part.path for part in change(b_py=B.replace(b"b1", b"B1"))] == ["b.py"]
    assert change() == ()


def test_changes_of_different_files_and_lines_become_one():
    first, second = change(a_py=A.replace(b"a1", b"X")), change(a_py=A.replace(b"a7\n", b""), b_py=b"b0\r\n")
    both = merged([first, second])
    assert apply_change(both, BASE.__getitem__) == {
        "a.py": A.replace(b"a1", b"X").replace(b"a7\n", b""),
        "b.py": b"b0\r\n",
    }
    assert num_changed_lines(both) == num_changed_lines(first) + num_changed_lines(second)


def test_lines_side_by_side_can_both_be_replaced():
    both = merged([change(a_py=A.replace(b"a4", b"X")), change(a_py=A.replace(b"a5", b"Y"))])
    assert apply_change(both, BASE.__getitem__) == {"a.py": A.replace(b"a4", b"X").replace(b"a5", b"Y")}


def test_the_same_change_twice_is_that_change():
    once = change(a_py=A.replace(b"a4", b"X"))
    assert merged([once, once]) == once


def test_changes_that_want_the_same_lines_have_no_common_change():
    one = change(a_py=A.replace(b"a4", b"X"))
    assert merged([one, change(a_py=A.replace(b"a4", b"Y"))]) is None
    insertion = change(a_py=A.replace(b"a4\n", b"a4\nnew\n"))
    assert merged([insertion, change(a_py=A.replace(b"a4\n", b"a4\nother\n"))]) is None
    assert merged([insertion, change(a_py=A.replace(b"a5", b"Y"))]) is None  # before or after the insertion?


LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\r\n", b"  d\n", b"\n", b"last"]), max_size=30)


@given(LINES, LINES)
@settings(max_examples=200)
def test_a_change_makes_the_new_file_of_the_old(old, new):
    before, after = {"m.py": b"".join(old)}, {"m.py": b"".join(new)}
    found = change_between(before, after)
    assert {**before, **apply_change(found, before.__getitem__)} == after


@given(LINES, LINES, LINES)
@settings(max_examples=200)
def test_merging_with_what_does_not_touch_keeps_both(old, new, more):
    between = b"".join(b"fence %d\n" % i for i in range(5))
    base = {"m.py": b"".join([*old, b"\n", between, *old])}
    first = change_between(base, {"m.py": b"".join([*new, b"\n", between, *old])})
    second = change_between(base, {"m.py": b"".join([*old, b"\n", between, *more])})
    both = merged([first, second])
    wanted = {"m.py": b"".join([*new, b"\n", between, *more])}
    assert both is None or {**base, **apply_change(both, base.__getitem__)} == wanted
