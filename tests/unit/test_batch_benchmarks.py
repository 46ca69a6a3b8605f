"""The batch benchmarks read their runs right: ratios, differing instances, and what was paid for twice."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from pipeline.batch.folder import BatchFolder
from pipeline.batch.outcome import InstanceOutcome, Row
from tests.benchmarks.batch.kills import _differences
from tests.benchmarks.batch.tasks import batch_arguments
from tests.benchmarks.batch.throughput import table
from tests.integration.batch_tools import ledger_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def keep(folder: Path, *rows: Row) -> None:
    folder.mkdir(parents=True)
    for row in rows:
        BatchFolder(folder).append(row)


def row(name: str, **fields: object) -> Row:
    values = {"instance_id": name, "outcome": InstanceOutcome.SOLVED, "line": 1, "patch_sha256": "p"}
    return Row(**values | {"started_at": NOW, "finished_at": NOW} | fields)


def test_rows_that_differ_in_more_than_their_clock_are_told_with_what_differs(tmp_path):
    keep(tmp_path / "undisturbed", row("a"), row("b"), row("c"))
    keep(tmp_path / "killed", row("a", seconds=9.0, num_sandbox_runs=7), row("b", patch_sha256="q"))
    b, c = _differences(tmp_path)
    assert b == "b ended differently: patch_sha256"
    assert c.startswith("c ended differently: ")


def test_a_ledger_entry_that_is_written_again_looks_different(tmp_path):
    entry = tmp_path / "instances/a/ledger/sandbox-1.json"
    entry.parent.mkdir(parents=True)
    entry.write_text("result")
    before = ledger_of(tmp_path)
    assert ledger_of(tmp_path) == before
    other = entry.with_name("new")
    other.write_text("result")
    other.replace(entry)
    assert ledger_of(tmp_path) != before


def test_the_table_gives_each_pass_and_the_ratio_of_the_last_to_the_first():
    keys = ("seconds", "tasks_per_hour", "num_solved", "num_tokens", "tokens_per_second", "utilisation")
    one, other = dict.fromkeys(keys, 2.0), dict.fromkeys(keys, 3.0)
    text = table({"one": one | {"sandbox_seconds": 0.0}, "batch": other | {"sandbox_seconds": 1.0}})
    assert "| | one | batch | ratio |" in text
    assert "| tasks per hour | 2.00 | 3.00 | 1.50 |" in text
    assert "| sandbox seconds | 0.00 | 1.00 | - |" in text


def test_both_passes_get_the_same_arguments_but_for_what_they_compare(tmp_path):
    options = argparse.Namespace(seed=3, sandbox="auto", candidates=8, rounds=1, limit=5, model="m")
    first = batch_arguments(options, tmp_path / "t.jsonl", tmp_path / "a", "--workers", "1")
    second = batch_arguments(options, tmp_path / "t.jsonl", tmp_path / "a")
    assert first == [*second, "--workers", "1"]
    assert second[second.index("--limit") + 1] == "5"
