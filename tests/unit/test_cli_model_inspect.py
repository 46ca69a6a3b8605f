"""`loopwright model inspect` writes a page and its numbers, of float and int8 checkpoints."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from model.provision.quantise import quantise_tensors, quantization_config
from model.testing import make_tiny_checkpoint
from pipeline.cli.app import app


def inspect(checkpoint: Path, *args: str) -> Result:
    every = ["model", "inspect", str(checkpoint), "--prompt", "def f(x):", "--out"]
    return CliRunner().invoke(app, [*every, str(checkpoint / "page.html"), *args])


@pytest.fixture(scope="module")
def ouro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint("ouro", tmp_path_factory.mktemp("ouro"))


def test_page_and_numbers_stand_side_by_side(ouro: Path) -> None:
    got = inspect(ouro, "--depth", "4", "--prompt", "return x", "--exit-threshold", "0.5")
    assert got.exit_code == 0, got.output
    first, second = json.loads((ouro / "page.json").read_text())
    assert (first["prompt"], first["num_tokens"], first["depth"]) == ("def f(x):", 9, 4)
    assert second["prompt"] == "return x"
    assert (first["exit_rule"], first["exit_threshold"]) == ("hazard", 0.5)
    assert set(first["halting"]) <= {"1", "2", "3"}
    assert "9 tokens, depth 4; loops: 1 " in got.stdout
    assert (ouro / "page.html").read_text().count("<section>") == 2


def test_int8_checkpoint_reads_nearly_as_its_float_one(tmp_path: Path) -> None:
    make_tiny_checkpoint("training-free", tmp_path)
    inspect(tmp_path, "--depth", "3")
    exact = json.loads((tmp_path / "page.json").read_text())[0]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "quantization_config": quantization_config()})
    )
    save_file(
        dict(quantise_tensors(load_file(tmp_path / "model.safetensors").items())),
        tmp_path / "model.safetensors",
    )
    assert inspect(tmp_path, "--depth", "3").exit_code == 0
    found = json.loads((tmp_path / "page.json").read_text())[0]
    for one, other in zip(exact["layers"], found["layers"], strict=True):
        assert other["update_norm"] == pytest.approx(one["update_norm"], rel=0.05)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--depth", "9"), "depths must lie in 1..4, got 9"),
        (("--exit-rule", "act"), "'act' is no exit rule of this checkpoint"),
        (("--prompt", ""), "a prompt has 0 tokens"),
    ],
)
def test_what_cannot_be_inspected_is_refused_as_bad_input(ouro: Path, args: list[str], message: str) -> None:
    got = inspect(ouro, *args)
    assert got.exit_code == 2
    assert message in got.stderr
