"""`loopwright model plan` says what fits on a machine, and what does not, before anyone rents it."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from model.testing import make_tiny_checkpoint
from pipeline.cli.app import app


def plan(*args: str) -> Result:
    return CliRunner().invoke(app, ["model", "plan", *args], env={"COLUMNS": "160"})


def test_the_list_names_every_configuration_with_its_bytes_per_token() -> None:
    text = plan().output
    for part in ("ouro-1.4b", "768 KiB", "iquest-coder-40b-loop-thinking", "2.5 GiB", "ByteDance/Ouro-1.4B"):
        assert part in text
    rows = {row["name"]: row for row in json.loads(plan("--json").output)}
    assert rows["nanbeige4.2-3b"]["kv_bytes_per_token"] == 176 << 10


def test_one_table_compares_numbers_of_devices_and_ends_in_a_verdict_for_each() -> None:
    text = plan(
        "iquest-coder-40b-loop-thinking", "--num-devices", "1,2,8", "--context-length", "32768"
    ).output
    for part in ("1 x 80 GiB", "2 x 80 GiB", "8 x 80 GiB", "windows of 8192 per request"):
        assert part in text
    assert "does not run on 1 device: weights and work space do not fit" in text
    assert "does not fit on 2 devices: 8 requests of 32,768 tokens; at most 5 at once" in text
    assert "fits on 8 devices" in text


def test_depth_and_policy_change_what_fits() -> None:
    def most(*args: str) -> int:
        got = json.loads(plan("ouro-1.4b", "--memory-gib", "24", "--json", *args).output)
        return int(got[0]["max_concurrency"])

    assert most("--depth", "1") > most() > most("--depth", "8")
    assert most("--kv-policy", "single") == most("--depth", "1")


def test_a_checkpoint_s_folder_is_planned_for_as_well(tmp_path: Path) -> None:
    make_tiny_checkpoint("ouro", tmp_path)
    got = json.loads(plan(str(tmp_path), "--context-length", "512", "--json").output)
    assert got[0]["fits"]
    assert got[0]["weight_bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert "weights, as in the files" in plan(str(tmp_path)).output
    assert (
        got[0]["kv"]["bytes_per_token"] == 2 * 4 * 2 * 2 * 32 * 4
    )  # layers, depth, k and v, heads, width, bytes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("no-such-model",), "neither a published configuration nor a folder"),
        (("ouro-1.4b", "--kv-policy", "mystery"), "--kv-policy 'mystery' is not known"),
        (("ouro-1.4b", "--dtype", "int3"), "--dtype 'int3' is not known"),
        (("ouro-1.4b", "--num-devices", "0"), "'0' is no number of devices"),
        (("iquest-coder-40b-loop-instruct", "--kv-policy", "single"), "one slot cannot hold both"),
    ],
)
def test_what_makes_no_sense_is_the_user_s_error(args: tuple[str, ...], message: str) -> None:
    result = plan(*args)
    assert result.exit_code == 2
    assert message in result.stderr
