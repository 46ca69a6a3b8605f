"""A checkpoint that is not what its family's are starts no engine, and the error names the tensor or key."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.testing import make_tiny_qwen2, save_tiny, tiny_config, tiny_network
from pipeline.exceptions import GeneratorError
from tests.integration.looped_engine import serve_command, start_error
from workers.cluster import ClusterSettings, connect_or_start
from workers.engine.settings import EngineSettings

pytestmark = pytest.mark.integration

Tensors = dict[str, torch.Tensor]
UP, DOWN = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"


def missing(tensors: Tensors) -> None:
    del tensors[UP]


def extra(tensors: Tensors) -> None:
    tensors["model.layers.9.mlp.up_proj.weight"] = tensors[UP].clone()


def misshapen(tensors: Tensors) -> None:
    tensors[UP] = tensors[UP][:-1].clone()


def not_a_number(tensors: Tensors) -> None:
    tensors[DOWN][3, 4] = torch.nan


def damage(folder: Path, change: Callable[[Tensors], None]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "name"),
    [(missing, UP), (extra, "model.layers.9.mlp.up_proj.weight"), (misshapen, UP), (not_a_number, DOWN)],
)
def test_engine_names_the_tensor_that_is_wrong(
    change: Callable[[Tensors], None], name: str, tmp_path: Path
) -> None:
    config = tiny_config("ouro")
    error = start_error(damage(save_tiny(tiny_network(config), tmp_path), change), config)
    assert error.startswith("CheckpointError")
    assert name in error


def test_user_is_told_the_tensor_and_not_to_read_the_log_of_a_process(
    tmp_path: Path, ray_state: Path
) -> None:
    folder = damage(make_tiny_qwen2(tmp_path), missing)
    engine = EngineSettings(model_path=str(folder), max_model_tokens=512, kv_cache_bytes=64 << 20)
    with pytest.raises(GeneratorError) as caught:
        connect_or_start(ClusterSettings(engine=engine, state_folder=ray_state), print)
    assert str(caught.value).startswith("the engine did not start: ")
    assert UP in str(caught.value)


def refused_server(folder: Path) -> tuple[int, list[str]]:
    """Serve a checkpoint that cannot be; return the exit code and what stands on the terminal."""
    command, _ = serve_command(folder)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr.splitlines()


def test_server_ends_with_the_name_of_the_tensor(tmp_path: Path) -> None:
    folder = damage(save_tiny(tiny_network(tiny_config("ouro")), tmp_path), missing)
    exit_code, lines = refused_server(folder)
    assert exit_code == 1
    assert lines[-1] == f"error: the checkpoint lacks {UP}"


def test_server_names_a_key_that_it_does_not_know_and_starts_no_engine(tmp_path: Path) -> None:
    path = save_tiny(tiny_network(tiny_config("ouro")), tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_twist": 3}))
    exit_code, lines = refused_server(tmp_path)
    assert exit_code == 4
    told = "loopwright: the checkpoint cannot be looped: unknown in config.json of 'ouro': rope_twist"
    assert lines == [told, "  hint: Remove the keys if they do not change what the network computes."]
