"""What is written down about an engine, how a keeper is told its settings, and what is refused at once."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from model.checkpoints import read_config
from model.config import LoopedConfig
from model.loop import LoopConfig
from model.testing import make_tiny_checkpoint, tiny_config
from pipeline.exceptions import EnvironmentBrokenError, ModelUnavailableError
from workers import ray_runtime, warm_engine, warm_state
from workers.cluster import ClusterSettings
from workers.engine.guard import MARK, kill_marked
from workers.engine.settings import EngineSettings
from workers.launch import KeeperSettings
from workers.warm_state import WarmState


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_config(folder)
    return folder


def write_config(folder: Path, **changes) -> LoopedConfig:
    """Write config.json of a Qwen2 with 24 layers; return what it describes."""
    config = {
        "model_type": "qwen2",
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return read_config(config)


def state(**changes) -> WarmState:
    values = {
        "pid": os.getpid(),
        "process_started_at": psutil.Process().create_time(),
        "address": "127.0.0.1:1",
        "actor_names": ("engine-0",),
        "engine_id": "x",
        "model": "/m",
        "max_model_tokens": 512,
        "max_recurrence_depth": 4,
        "idle_timeout_seconds": 60.0,
        "phase": "ready",
    }
    return WarmState(**values | changes)


def test_the_state_is_read_as_it_was_written(tmp_path):
    warm_state.write(tmp_path, state())
    assert warm_state.read(tmp_path) == warm_state.load(tmp_path) != None  # noqa: E711
    assert warm_state.read(tmp_path).actor_names == ("engine-0",)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"pid": 1}', json.dumps({"pid": 1, "actor_names": [], "unknown": 2})],
)
def test_an_unreadable_state_counts_as_none_and_is_removed(tmp_path, content):
    (tmp_path / "engine.json").write_text(content)
    assert warm_state.read(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_a_dead_keeper_counts_as_none_and_is_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    warm_state.write(tmp_path, state(pid=process.pid))
    assert warm_engine.status(tmp_path) is None
    assert not warm_engine.down(tmp_path)
    assert not (tmp_path / "engine.json").exists()


def test_a_later_process_with_the_keepers_pid_is_not_taken_for_it(tmp_path):
    warm_state.write(tmp_path, state(process_started_at=1.0))
    assert warm_state.read(tmp_path) is None


def test_a_keeper_gets_the_settings_that_were_meant(tmp_path, checkpoint):
    engine = EngineSettings(model_path=str(checkpoint), loop=tiny_config("parcae"))
    settings = ClusterSettings(engine=engine, state_folder=tmp_path, num_replicas=2, address="auto")
    for is_warm in (True, False):
        keeper = settings.keeper(tmp_path / "k", is_warm=is_warm)
        assert KeeperSettings.from_json(keeper.to_json()) == keeper
        assert len(set(keeper.actor_names)) == 2
        assert (keeper.idle_timeout_seconds is not None) == is_warm


def test_an_engine_is_another_as_soon_as_one_setting_differs(checkpoint):
    base = {"model_path": str(checkpoint)}
    changes = [
        {},
        {"max_model_tokens": 512},
        {"max_recurrence_depth": 2},
        {"kv_cache_bytes": 1 << 30},
        {"seed": 1},
    ]
    ids = [EngineSettings(**base | change).resolved().engine_id for change in changes]
    assert len(set(ids)) == len(changes)
    assert EngineSettings(**base).resolved().engine_id == ids[0]


def test_the_loop_of_an_engine_is_the_given_one_or_the_checkpoints_or_the_default(checkpoint):
    settings = EngineSettings(model_path=str(checkpoint), max_recurrence_depth=3)
    default = settings.resolved().loop
    assert (default.core_start, default.core_stop, default.max_recurrence_depth) == (10, 14, 3)
    own = write_config(checkpoint, loopwright_loop=LoopConfig(window_start=1, window_stop=3).to_json_dict())
    assert settings.resolved().loop == replace(own, max_recurrence_depth=3)
    given = EngineSettings(model_path=str(checkpoint), loop=default, max_recurrence_depth=3)
    assert given.resolved().loop == default


def test_a_checkpoint_that_was_trained_with_loops_runs_as_deep_as_that(tmp_path):
    make_tiny_checkpoint("ouro", tmp_path, recurrence_depth=3, max_recurrence_depth=3)
    for asked, served in ((1, 3), (5, 5)):
        settings = EngineSettings(model_path=str(tmp_path), max_recurrence_depth=asked).resolved()
        loop = settings.loop
        assert (loop.recurrence_depth, loop.max_recurrence_depth) == (3, served)
        assert settings.max_recurrence_depth == served  # which is what the planner is told


def test_a_checkpoint_that_cannot_be_looped_says_why_and_runs_plain(checkpoint):
    write_config(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ModelUnavailableError, match="no adapter for model_type 'mamba'"):
        EngineSettings(model_path=str(checkpoint)).resolved()
    assert EngineSettings(model_path=str(checkpoint), max_recurrence_depth=1).resolved().loop is None


def test_depth_one_alone_is_the_plain_model(checkpoint):
    assert EngineSettings(model_path=str(checkpoint), max_recurrence_depth=1).resolved().loop is None


def test_a_folder_without_a_checkpoint_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ModelUnavailableError, match=str(tmp_path)) as caught:
        EngineSettings(model_path=str(tmp_path)).resolved()
    assert "model pull" in caught.value.hint


def test_an_address_where_nothing_listens_is_refused_at_once():
    with pytest.raises(EnvironmentBrokenError, match=r"no Ray answers at 127\.0\.0\.1:1"):
        ray_runtime.join_ray("127.0.0.1:1")


def test_the_token_is_made_once_and_readable_by_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    ray_runtime._use_own_token(tmp_path)
    token = tmp_path / "ray_token"
    first = token.read_text()
    ray_runtime._use_own_token(tmp_path)
    assert token.read_text() == first
    assert len(first) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(token)


def test_folders_of_killed_rays_are_removed_and_those_of_living_ones_stay(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = tmp_path / f"loopwright-ray-{process.pid}-abc"
    living = tmp_path / f"loopwright-ray-{os.getpid()}-abc"
    other = tmp_path / "somebody-elses"
    for folder in (dead, living, other):
        folder.mkdir()
    ray_runtime.remove_stale_folders(tmp_path)
    assert {folder.name for folder in tmp_path.iterdir()} == {living.name, other.name}


def test_the_guard_kills_what_carries_its_mark_and_nothing_else():
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    marked, other = (
        subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE)
        for mark in ("mine", "not-mine")
    )
    try:
        for process in (marked, other):
            process.stdout.readline()  # it has its own environment by now
        kill_marked("mine")
        assert marked.wait(timeout=30) < 0
        assert other.poll() is None
    finally:
        for process in (marked, other):
            process.kill()
            process.communicate()
