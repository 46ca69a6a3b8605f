"""The summary page of a batch: what it tells, and that no text in it can break it."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.batch.folder import BatchFolder
from pipeline.batch.outcome import InstanceOutcome, Row
from pipeline.batch.page import render_batch
from pipeline.report.page import policy_hash
from tests.unit.records import HOSTILE
from tests.unit.test_report import ATTRIBUTES, TAGS, Page

START = datetime(2026, 1, 1, tzinfo=UTC)
EXPECTED_TAGS = {"script", "label", "input", "select", "option"}
EXPECTED_ATTRIBUTES = {"type", "value", "checked", "placeholder", "role", "hidden"}


def made_up_rows(num_rows: int, *, seed: int = 0) -> list[Row]:
    """Return rows of every outcome, every seventh with text that wants to break out."""
    dice = random.Random(seed)
    rows = []
    for number in range(1, num_rows + 1):
        outcome = dice.choices(list(InstanceOutcome), [4, 4, 1, 1])[0]
        hostile = number % 7 == 0
        solved = outcome is InstanceOutcome.SOLVED
        began = START + timedelta(minutes=number)
        searched = outcome in (InstanceOutcome.SOLVED, InstanceOutcome.UNSOLVED)
        rows.append(
            Row(
                instance_id=f"project__case-{number:04}",
                outcome=outcome,
                reason=HOSTILE if hostile else f"the reason of case {number}",
                hint='"><img src=x onerror=document.title="broken">' if hostile else "",
                line=number,
                digest="d",
                repo=f"https://github.com/owner/{'</td><script>' if hostile else f'repo{number % 9}'}.git",
                started_at=began,
                finished_at=began + timedelta(minutes=5),
                seconds=dice.uniform(20, 900),
                num_tokens=dice.randrange(200, 40_000) if searched else 0,
                num_candidates=dice.randrange(4, 320) if searched else 0,
                sandbox_seconds=dice.uniform(5, 500),
                solved_at=dice.randrange(64) if solved else None,
                rank=dice.randrange(1, 6) if solved else None,
                recurrence_depth=dice.choice([1, 1, 2, 4]) if solved else None,
                num_changed_lines=dice.randrange(1, 12) if solved else None,
            )
        )
    return rows


@pytest.fixture
def folder(tmp_path) -> BatchFolder:
    folder = BatchFolder(tmp_path / "nightly")
    report = folder.instance("project__case-0001").report_path
    report.parent.mkdir(parents=True)
    report.touch()
    return folder


@pytest.fixture
def html(folder) -> str:
    return render_batch(folder, made_up_rows(300))


def test_the_page_holds_only_known_tags_and_attributes_and_every_tag_is_closed(html):
    page = Page(html)
    assert page.tags <= TAGS | EXPECTED_TAGS
    known = ATTRIBUTES | EXPECTED_ATTRIBUTES
    assert {name for name in page.attributes if not name.startswith("data-")} <= known
    assert page.unbalanced == []


def test_the_policy_allows_the_page_own_style_and_script_and_nothing_else(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    page = Page(html)
    hashes = {name: policy_hash(page.text(name)) for name in ("style", "script")}
    assert policy
    assert policy[1] == (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; "
        f"script-src 'sha256-{hashes['script']}'; base-uri 'none'; form-action 'none'"
    )


def test_it_links_to_the_reports_that_are_there_and_nowhere_else(html):
    assert Page(html).links == ["instances/project__case-0001/report.html"]


def test_no_control_character_or_direction_override_reaches_the_page(html):
    html.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)


def test_totals_are_those_of_the_rows(folder):
    rows = made_up_rows(300)
    text = Page(render_batch(folder, rows)).text("header")
    solved = sum(row.outcome is InstanceOutcome.SOLVED for row in rows)
    judged = solved + sum(row.outcome is InstanceOutcome.UNSOLVED for row in rows)
    num_tokens = sum(row.num_tokens for row in rows)
    assert f"Solved{solved} {100 * solved / judged:.1f} % of {judged} judged" in text
    assert f"Tokens written{num_tokens:,} {num_tokens / solved:,.0f} per solved" in text
    assert "Time5 h 4 min" in text  # 304 minutes, in which up to five ran at once


def test_a_batch_of_nothing_but_bad_lines_has_a_page_too(folder):
    row = Row(
        instance_id="line 1",
        outcome=InstanceOutcome.INVALID,
        reason="not JSON",
        line=1,
        started_at=START,
        finished_at=START,
    )
    text = Page(render_batch(folder, [row])).text()
    assert "not JSON" in text
    assert "per solved" not in text
