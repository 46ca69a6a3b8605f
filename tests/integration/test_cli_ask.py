"""`loopwright ask` with a real engine, on a tiny random checkpoint that knows nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.batch_tools import LOOPWRIGHT

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 500


def test_a_descent_over_two_workers_judges_and_answers(engine_home, checkpoint, tmp_path):
    shop = tmp_path / "shop"
    for number in range(12):
        (shop / f"part{number}").mkdir(parents=True)
        (shop / f"part{number}" / "page.py").write_text(f"def f{number}(x):\n    return x + {number}\n")
    command = [*LOOPWRIGHT, "ask", shop, "-q", "f7", "--tier", "descent", "--workers", "2", "--json"]
    more = ["--model", checkpoint, "--calls", "500", "--depth", "2", "--set", "limits.max_recurrence_depth=2"]

    done = subprocess.run(
        [*map(str, command), *map(str, more)], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )

    found = json.loads(done.stdout)
    assert (done.returncode, found["tier"], found["ending"]) == (0, "descent", "complete"), done.stderr
    assert found["spans"][0]["qualname"] == "f7"
    assert found["spend"]["num_calls"] == 12 + 1  # each function, and the answer
    trace = [json.loads(line) for line in Path(found["folder"], "trace.jsonl").read_text().splitlines()]
    assert {event["worker"] for event in trace if event["kind"] == "score"} == {"reading-1", "reading-2"}
