"""The report page: what it tells, and that nothing a model or repository writes can break it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from pipeline.report import render
from pipeline.report.figures import cost_by_depth, limit_uses
from pipeline.runs import RunRecord
from tests.unit.records import DIFF, HOSTILE, bare_record, hostile_record, reading_record, solved_record

VOID = {"meta", "br", "img", "rect", "link", "input"}
# fmt: off
TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "section", "article", "nav", "footer",
    "h1", "h2", "h3", "h4", "p", "a", "span", "strong", "b", "code", "pre", "dl", "dt", "dd", "div", "ul",
    "li", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "svg", "rect",
}
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "title", "open",
    "viewbox", "preserveaspectratio", "aria-hidden", "width", "height",
}
# fmt: on


class Page(HTMLParser):
    """Reads a page as a browser would, and keeps what a test asks about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.unbalanced: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.unbalanced += self._open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name == "href"]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        for tag in set(self._open):
            self.texts.setdefault(tag, []).append(data)

    def text(self, tag: str = "body") -> str:
        return "".join(self.texts.get(tag, []))


RECORDS = {
    "solved": solved_record,
    "bare": bare_record,
    "read": lambda: solved_record(reading=reading_record("what rounds?", "src/humanise/size.py")),
    "hostile": hostile_record,
    "interrupted": lambda: solved_record(status="interrupted", patch=None, finished_at=None),
}


@pytest.fixture(params=RECORDS)
def html(request) -> str:
    return render(RECORDS[request.param]())


def test_the_page_holds_only_known_tags_and_attributes_and_every_tag_is_closed(html):
    page = Page(html)
    assert page.tags <= TAGS
    assert page.attributes <= ATTRIBUTES
    assert page.unbalanced == []


def test_links_lead_only_to_sections_of_the_page(html):
    page = Page(html)
    assert set(page.links) <= {f"#{name}" for name in page.ids}


def test_the_policy_allows_the_page_own_style_and_nothing_else(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    style = Page(html).text("style")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy
    assert policy[1].startswith(f"default-src 'none'; style-src 'sha256-{digest}'")


def test_no_control_character_escape_sequence_or_direction_override_reaches_the_page(html):
    html.encode("utf-8")  # no lone surrogate either
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)


def test_a_megabyte_on_one_line_is_clipped_and_says_how_much_is_left_out():
    html = render(hostile_record())
    shown = re.sub(r'<pre class="copy">.*?</pre>', "", html, flags=re.DOTALL)  # the patch is given whole
    assert len(shown) < 200_000
    assert "characters left out" in shown


def test_markup_of_a_model_is_shown_as_text():
    page = Page(render(hostile_record()))
    assert HOSTILE[:43] in page.text("h1")
    assert "{{ 7*7 }}" in page.text("h1")


def test_a_reader_finds_the_failure_the_suspects_every_draft_and_the_patch():
    record = solved_record()
    text = Page(render(record)).text()
    for candidate in (c for r in record.rounds for c in r.candidates):
        assert candidate.candidate.candidate_id in text
    for expected in (
        "AssertionError: assert '1000.0 kB' == '1.0 MB'",
        "traceback frame 1",
        "duplicate of r1c01",
        "Rewrite `natural_size`.",
        'return "1 < 2 & 3"',
        record.reason,
        "loopwright runs show 261121-143005-k3 --patch | git apply",
    ):
        assert expected in text


def test_the_patch_can_be_copied_byte_for_byte():
    copy = re.search(r'<pre class="copy">\n(.*?)</pre>', render(solved_record()), flags=re.DOTALL)
    assert copy
    assert Page(f"<body>{copy[1]}</body>").text() == DIFF


def test_a_patch_that_html_cannot_carry_says_where_the_exact_one_is():
    patch = solved_record().patch.__class__(
        diff=DIFF.replace("\n", "\r\n"), candidate_id="r3c02", paths=("a.py",), num_changed_lines=2
    )
    assert "cannot show the patch byte for byte" in render(solved_record(patch=patch))


def test_a_record_read_back_from_disk_makes_the_same_page():
    record = solved_record()
    assert render(RunRecord.model_validate_json(record.model_dump_json())) == render(record)


def test_the_cost_of_each_depth_adds_up_to_the_whole_run():
    costs = cost_by_depth(solved_record())
    assert [c.recurrence_depth for c in costs] == [1, 2]
    assert [c.num_drafts for c in costs] == [22, 3]
    assert [c.num_refused for c in costs] == [2, 0]
    assert [c.num_tested for c in costs] == [20, 2]
    assert [c.num_resolved for c in costs] == [0, 1]
    assert [c.draft_seconds for c in costs] == [63.0, 31.5]
    assert sum(c.num_tokens for c in costs) == sum(
        c.completion.num_completion_tokens for r in solved_record().rounds for c in r.candidates
    )


def test_a_limit_that_was_used_up_is_named():
    record = solved_record()
    limits = record.task.limits.model_copy(update={"num_candidates": 25})
    used = limit_uses(record.model_copy(update={"task": record.task.model_copy(update={"limits": limits})}))
    assert [use.name for use in used if use.is_reached] == ["drafts"]
