"""From an issue to a test: what is asked for, what of an answer is a test, which failures show the issue."""

from __future__ import annotations

import pytest

from pipeline.core import Outcome, TestCase, TestReport, TestStatus
from pipeline.reproduce.answer import NoTestError, TestDraft, read_test
from pipeline.reproduce.choice import Kept, choose, grounding
from pipeline.reproduce.example import find_example, new_test_path
from pipeline.reproduce.judge import judge_reproduction
from pipeline.reproduce.prompt import Subject, render_reproduction
from pipeline.reproduce.relevance import names_of_code, speaks_of

ISSUE = "`slugify('a  b')` returns 'a--b'; it should be 'a-b'. Empty text ends in a ValueError."
TESTS = {
    "tests/test_other.py": "import os\n\n\ndef test_other():\n    assert os\n",
    "tests/test_text.py": (
        "from __future__ import annotations\nimport pytest\nfrom pkg.text import slugify, title\n\n\n"
        "@pytest.mark.slow\ndef test_marked():\n    assert slugify('x') == 'x'\n\n\n"
        "def test_title():\n    assert title('a') == 'A'\n\n\n"
        "def test_slug():\n    assert slugify('A b') == 'a-b'\n"
    ),
    "tests/conftest.py": "slugify = 1\n",
    "tests/test_broken.py": "slugify title slugify (",
}


def test_the_example_is_the_test_nearest_to_the_functions_and_the_issue():
    example = find_example(TESTS, ["slugify", "title"], ISSUE)
    assert example.path == "tests/test_text.py"
    assert example.imports == "import pytest\nfrom pkg.text import slugify, title"
    assert example.test.startswith("def test_slug():")


def test_a_tree_without_tests_has_no_example():
    assert find_example({"tests/conftest.py": "x = 1"}, ["x"], ISSUE) is None
    assert find_example({}, [], "") is None


def test_the_new_file_lies_beside_the_example_under_a_free_name_of_its_pattern():
    example = find_example(TESTS, ["slugify"], ISSUE)
    assert new_test_path(example, []) == "tests/test_issue.py"
    assert new_test_path(example, ["tests/test_issue.py", "tests/test_issue1.py"]) == "tests/test_issue2.py"
    ends = find_example({"pkg/text_test.py": "x = 1"}, [], ISSUE)
    assert new_test_path(ends, []) == "pkg/issue_test.py"


def test_the_prompt_shows_issue_code_and_style_and_begins_the_test():
    example = find_example(TESTS, ["slugify"], ISSUE)
    subject = Subject("src/pkg/text.py", "Slugger.run", "def run(self):\n" + "    pass\n" * 200)
    prompt = render_reproduction(ISSUE, [subject], example)
    text = prompt.messages[-1].content
    for part in (ISSUE, "# src/pkg/text.py", "# ... cut", "def test_slug():"):
        assert part in text
    assert prompt.prefill == (
        "```python\nimport pytest\nfrom pkg.text import slugify, title\nfrom pkg.text import Slugger"
        "\n\n\ndef test_"
    )


PREFILL = "```python\nimport pytest\nfrom pkg.text import slugify\n\n\ndef test_"
GOOD = "issue():\n    assert slugify('a  b') == 'a-b'\n"


def read(answer: str) -> TestDraft:
    return read_test(answer, prefill=PREFILL, names={"slugify", "title"})


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        GOOD + "```\nThis test fails because of the bug.",
        GOOD + "\n\ndef test_more():\n    assert slugify('",  # cut off in the next one
        GOOD + "\nThat is all.\n",
    ],
)
def test_the_first_test_of_an_answer_becomes_a_file(answer):
    draft = read(answer)
    assert (draft.name, draft.calls) == ("test_issue", ("slugify",))
    assert draft.source == (
        "import pytest\nfrom pkg.text import slugify\n\n\n"
        "def test_issue():\n    assert slugify('a  b') == 'a-b'\n"
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "does not parse"),
        ("I am sorry.", "does not parse"),
        ("x():\n    slugify('a')\n", "asserts nothing"),
        ("x():\n    assert 1 == 2\n", "calls nothing of the project"),
        ("x():\n    assert False\n", "calls nothing of the project"),
        ("x(tmp_path):\n    assert slugify(tmp_path) == 1\n", "fixtures"),
        ("x():\n    pytest.skip()\n    assert slugify('a')\n", "calls skip"),
        ("x():\n    assert slugify('a')\n    pytest.fail('no')\n", "calls fail"),
        ("x():\n    import os\n    assert slugify(os.system('rm -rf /'))\n", "calls system"),
        ("x():\n" + "    assert slugify('a')\n" * 60, "too long"),
        ("x():\n    assert slugify(" + "(" * 5000, "does not parse"),
        ("\x00", "does not parse"),
    ],
)
def test_what_can_show_nothing_is_no_test(answer, reason):
    with pytest.raises(NoTestError, match=reason):
        read(answer)


TEST_ID = "tests/test_issue.py::test_issue"
IN_TEST, IN_CODE = ("tests/test_issue.py", 6), ("pkg/text.py", 3)


def judged(message="", frames=(IN_TEST,), *, status=TestStatus.FAILED, test_id=TEST_ID, **report):
    case = TestCase(test_id=test_id, status=status, message=message)
    fields = {"outcome": Outcome.EXITED, "exit_code": 1, "cases": (case,), "output": "", "wall_seconds": 1}
    return judge_reproduction(
        TestReport(**fields | report), test_id=TEST_ID, frames=frames, statement=ISSUE, calls=("slugify",)
    )


@pytest.mark.parametrize(
    ("message", "frames"),
    [
        ("AssertionError: assert 'a--b' == 'a-b'", [IN_TEST]),
        ("assert 'a--b' == 'a-b'", [IN_TEST]),
        ("assert False", []),
        ("ValueError: empty", [IN_TEST, IN_CODE]),  # the issue names it
        ("Failed: DID NOT RAISE <class 'ValueError'>", [IN_TEST]),
    ],
)
def test_a_broken_expectation_and_an_error_that_the_issue_names_show_it(message, frames):
    found = judged(message, frames)
    assert found.is_kept
    assert found.signature == f"slugify: {message}"


@pytest.mark.parametrize(
    ("message", "frames", "reason"),
    [
        ("NameError: name 'slug' is not defined", [IN_TEST], "own fault: NameError"),
        ("TypeError: slugify() takes 1 positional argument", [IN_TEST], "own fault: TypeError"),
        ("ImportError: cannot import name 'x'", [IN_TEST], "own fault: ImportError"),
        ("ModuleNotFoundError: No module named 'x'", [IN_TEST, IN_CODE], "own fault"),
        ("AttributeError: 'str' object has no attribute 'x'", [IN_TEST], "own fault"),
        ("KeyError: 1", [IN_TEST, IN_CODE], "KeyError, which the issue does not name"),
        ("AssertionError", [IN_TEST, IN_CODE], "AssertionError, which the issue does not name"),
        ("Failed: DID NOT RAISE <class 'KeyError'>", [IN_TEST], "waits for KeyError"),
    ],
)
def test_a_test_that_fails_by_its_own_fault_shows_nothing(message, frames, reason):
    assert reason in judged(message, frames).reason


def test_without_a_failure_of_the_test_itself_nothing_is_shown():
    assert "passes on the base" in judged(status=TestStatus.PASSED).reason
    assert "cannot be collected" in judged("SyntaxError", test_id="tests/test_issue.py").reason
    assert "first line" in judged("fixture 'x' not found", status=TestStatus.ERROR).reason
    assert "limits" in judged(outcome=Outcome.TIMED_OUT, cases=()).reason
    assert "first line" in judged(status=TestStatus.SKIPPED).reason


def test_one_object_at_two_addresses_is_one_failure():
    first, second = (judged(f"assert <Slug at 0x{n}> == 'a'").signature for n in ("7fee", "7fff"))
    assert first == second


def kept(body: str, signature: str) -> Kept:
    draft = read("issue():\n    " + body)
    return Kept(draft, signature)


def test_the_shortest_test_of_the_largest_cluster_is_chosen():
    short, long = "assert slugify('a  b') == 'a-b'", "text = 'a  b'\n    assert slugify(text) == 'a-b'"
    tests = [kept("assert slugify('q') == 'z'", "other"), kept(long, "same"), kept(short, "same")]
    assert short in choose(tests, ISSUE).draft.function
    assert choose([], ISSUE) is None


def test_of_equal_clusters_that_whose_values_the_issue_gives_is_chosen():
    tests = [kept("assert slugify('q') == 'z'", "one"), kept("assert slugify('a  b') == 'a-b'", "two")]
    assert "a-b" in choose(tests, ISSUE).draft.function
    assert grounding(tests[1].draft, ISSUE) == 1.0 > grounding(tests[0].draft, ISSUE)


@pytest.mark.parametrize(
    "text", ["A" * 500_000, "Aa" * 300_000, "a.a" * 300_000, "a_" * 300_000, "`" * 500_000]
)
def test_a_hostile_issue_is_read_in_no_time(text):
    assert names_of_code(text + " `slugify`", {"slugify"}) == frozenset()  # it stands behind what is read


@pytest.mark.parametrize(
    ("statement", "failing", "expected"),
    [
        ("`slugify` is wrong", "def test_title(): title()", False),
        ("slugify('a') is wrong", "def test_slug(): slugify('b')", True),
        ("the slugs are wrong", "def test_title(): title()", True),  # it names nothing, so it may be this
        ("unknown_name(1) is wrong", "def test_title(): title()", True),
        ("see `title` and `slugify`", "def test_title(): title()", True),
    ],
)
def test_failing_tests_belong_to_an_issue_that_does_not_speak_of_something_else(statement, failing, expected):
    assert speaks_of([failing], statement, {"slugify", "title"}) is expected
