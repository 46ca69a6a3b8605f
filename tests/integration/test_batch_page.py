"""The summary page of a batch in a real browser: its own script filters and sorts, and no other runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.batch.folder import BatchFolder
from pipeline.batch.page import render_batch
from pipeline.report.page import policy_hash
from tests.integration.conftest import unavailable
from tests.unit.test_batch_page import made_up_rows

pytestmark = pytest.mark.integration

# What a reader does, and what is then to be seen; the answer is left in the page's title.
_READER = """
const seen = {};
const rows = () => Array.from(document.querySelectorAll("#instances tbody tr"));
const names = () => rows().filter((row) => !row.hidden).map((row) => row.cells[1].textContent.trim());
const set = (element, value) => { element.value = value; element.dispatchEvent(new Event("input")); };
const search = document.getElementById("search"), repo = document.getElementById("repo");
seen.all = names();
set(search, "CASE-0003 reason");
seen.search = names();
set(search, "");
for (const box of document.querySelectorAll("input[name=outcome]")) {
  box.checked = box.value === "solved";
  box.dispatchEvent(new Event("input"));
}
seen.solved = names();
set(repo, repo.options[1].value);
seen.hostileRepo = names();
seen.shown = document.getElementById("shown").textContent;
set(repo, "");
const tokens = Array.from(document.querySelectorAll("#instances th button"))
  .find((button) => button.textContent === "Tokens");
tokens.click();
seen.up = names();
tokens.click();
seen.down = names();
seen.images = document.images.length;
document.title = JSON.stringify(seen);
"""


def _browser() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        unavailable("no chromium to look at the page with")
    return found


def _title_after(html: str, script: str, folder: Path) -> str:
    """Open the page with a script of ours added to those that it allows, and return its title at the end."""
    allowed = html.replace("script-src ", f"script-src 'sha256-{policy_hash(script)}' ", 1)
    page = folder / "read.html"
    page.write_text(allowed.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command = [_browser(), *options, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    return title.replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_a_reader_filters_searches_and_sorts_and_hostile_text_stays_text(tmp_path):
    rows = made_up_rows(300)
    folder = BatchFolder(tmp_path / "nightly")
    seen = json.loads(_title_after(render_batch(folder, rows), _READER, tmp_path))
    solved = [row for row in rows if row.outcome.value == "solved"]
    assert seen["all"] == [row.instance_id for row in rows]
    assert seen["search"] == ["project__case-0003"]
    assert seen["solved"] == [row.instance_id for row in solved]
    hostile = [row.instance_id for row in solved if "<script>" in row.repo]
    assert seen["hostileRepo"] == hostile
    assert seen["shown"] == f"{len(hostile)} of 300"
    by_tokens = sorted(row.num_tokens for row in solved)
    tokens = {row.instance_id: row.num_tokens for row in rows}
    assert [tokens[name] for name in seen["up"]] == by_tokens
    assert [tokens[name] for name in seen["down"]] == by_tokens[::-1]
    assert seen["images"] == 0
