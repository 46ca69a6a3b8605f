"""The patch is no larger than the tests need: needless files, hunks and statements go."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.change import apply_change, apply_hunks, change_between, hunks_of
from pipeline.minimise import minimise, pieces

A = b"".join(b"line %d\n" % i for i in range(40))
BASE = {"a.py": A, "b.py": b"x = 1\n"}
FIX = A.replace(b"line 5\n", b"fix\n")
NOISE = FIX.replace(b"line 20\n", b"noise\n").replace(b"line 30\n", b"")


def files_of(change) -> dict[str, bytes]:
    return {**BASE, **apply_change(change, BASE.__getitem__)}


async def smallest(new: dict[str, bytes], needed, *, is_sound=lambda _: True, max_trials: int = 8):
    tried = []

    async def passes(change) -> bool:
        tried.append(files_of(change))
        return needed(files_of(change))

    change = change_between(BASE, {**BASE, **new})
    left = await minimise(change, passes, is_sound=is_sound, max_trials=max_trials)
    return files_of(left), tried


async def test_files_and_hunks_that_the_tests_do_not_need_go():
    new = {"a.py": NOISE, "b.py": b"x = 2\n"}
    left, tried = await smallest(new, lambda files: b"fix\n" in files["a.py"])
    assert left == {**BASE, "a.py": FIX}
    assert len(tried) == 3  # b.py, line 30, line 20; what is left is all there is


async def test_it_stops_at_its_trials_and_never_tries_the_base():
    _, tried = await smallest({"a.py": NOISE}, lambda _: True)
    assert BASE not in tried
    _, tried = await smallest({"a.py": NOISE}, lambda _: True, max_trials=1)
    assert len(tried) == 1


async def test_needless_statements_within_a_hunk_go():
    body = b"if debug:\n    log()\n    count()\nline five\nreturn early\n"  # line 5 changed amid additions
    left, _ = await smallest({"a.py": A.replace(b"line 5\n", body)}, lambda f: b"line five" in f["a.py"])
    assert left["a.py"] == A.replace(b"line 5\n", b"line five\n")


async def test_a_statement_goes_with_its_body_in_one_trial():
    body = b"if debug:\n    log()\n    count()\nline 5\n"
    new = {"a.py": A.replace(b"line 5\n", body).replace(b"line 20\n", b"line twenty\n")}
    _, tried = await smallest(new, lambda f: b"line twenty" in f["a.py"])
    assert len(tried) == 2


async def test_a_line_that_makes_place_for_another_does_not_stay_beside_it():
    new = {"a.py": A.replace(b"line 5\n", b"quite other\n")}
    left, tried = await smallest(new, lambda f: b"quite other\n" in f["a.py"])
    assert (left["a.py"], tried) == (new["a.py"], [])


async def test_what_is_unsound_costs_no_trial():
    left, tried = await smallest({"a.py": NOISE}, lambda _: True, is_sound=lambda _: False)
    assert (left["a.py"], tried) == (NOISE, [])


TEXTS = st.lists(
    st.sampled_from([b"a = 1\n", b"a = 2\n", b"b = 1\n", b"if x:\n", b"    y()\n", b"\n"]), max_size=12
)


@given(TEXTS, TEXTS)
@settings(max_examples=300)
def test_the_pieces_of_a_hunk_do_what_it_does(old, new):
    before, after = b"".join(old), b"".join(new)
    parts = [piece for hunk in hunks_of(before, after) for piece in pieces(hunk)]
    assert apply_hunks(before, parts) == after
    assert all(len(part.old) <= 1 and len(part.new) <= 1 for part in parts if not (part.old and part.new))


@given(TEXTS, TEXTS, st.integers(0, 6))
@settings(max_examples=200)
def test_what_is_left_was_tried_or_is_the_whole(old, new, max_trials):
    import asyncio

    base = {"m.py": b"".join(old)}
    whole = change_between(base, {"m.py": b"".join(new)})
    passed = [apply_change(whole, base.__getitem__)]

    async def passes(change) -> bool:
        files = apply_change(change, base.__getitem__)
        if len(files["m.py"]) % 2:
            passed.append(files)
        return bool(len(files["m.py"]) % 2)

    left = asyncio.run(minimise(whole, passes, is_sound=lambda _: True, max_trials=max_trials))
    assert apply_change(left, base.__getitem__) in passed
    assert len(passed) <= max_trials + 1


async def test_the_blank_lines_before_a_new_definition_stay():
    old = b"def a():\n    return 1\n"
    new = old + b"\n\ndef b():\n    x = 2\n    return 1\n"
    change = change_between({"m.py": old}, {"m.py": new})

    async def needs_b(fewer):
        return b"def b():\n    " in apply_change(fewer, lambda _: old)["m.py"]

    done = await minimise(change, needs_b, is_sound=lambda _: True, max_trials=20)
    assert apply_change(done, lambda _: old)["m.py"].startswith(old + b"\n\ndef b():\n")
