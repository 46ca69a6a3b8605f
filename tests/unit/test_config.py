"""Settings: what overrides what, and what a bad key or value says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config import Settings, load_settings
from pipeline.exceptions import InputError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def write(tmp_path):
    def _write(text: str | bytes) -> Path:
        path = tmp_path / "my.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def test_flags_override_the_environment_which_overrides_the_file_which_overrides_defaults(write, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_LIMITS__NUM_ROUNDS", "3")
    monkeypatch.setenv("LOOPWRIGHT_LIMITS__NUM_TOKENS", "500")
    path = write("limits: {wall_seconds: 9, num_rounds: 2, num_tokens: 100}")

    limits = load_settings(path, {"limits": {"num_tokens": 700}}).limits

    assert (limits.num_tokens, limits.num_rounds, limits.wall_seconds) == (700, 3, 9)
    assert limits.num_candidates == Settings().limits.num_candidates


def test_a_list_replaces_the_default_list_whole(write):
    settings = load_settings(write("planner: {ladder: [{num_candidates: 3}]}"))
    assert [rung.num_candidates for rung in settings.planner.ladder] == [3]


def test_an_empty_file_means_the_defaults(write):
    assert load_settings(write("# nothing\n")) == Settings()


def test_an_unknown_key_names_the_key_the_file_and_its_neighbour(write):
    path = write("planner: {sed: 3}")
    with pytest.raises(InputError, match=r"my\.yaml: unknown key planner\.sed") as caught:
        load_settings(path)
    assert caught.value.hint == "did you mean seed?"


def test_an_unknown_key_inside_the_ladder_is_named_once(write):
    with pytest.raises(InputError) as caught:
        load_settings(write("planner: {ladder: [{num_candidats: 3}]}"))
    assert str(caught.value).endswith("my.yaml: unknown key planner.ladder.0.num_candidats")


def test_every_bad_value_is_named_with_its_source(write, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_PLANNER__TOP_P", "7")
    with pytest.raises(InputError) as caught:
        load_settings(write("planner: {seed: x}"), {"limits": {"num_rounds": 0}})
    message = str(caught.value)
    assert "my.yaml: planner.seed: " in message
    assert "environment variables: planner.top_p: " in message
    assert "the command line: limits.num_rounds: " in message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("planner: [", "is not valid YAML"),
        ("- 1", "must hold keys and values, not a list"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        ("3: 4", "unknown key 3"),
        ("planner: 3", "planner: Input should be"),
    ],
)
def test_a_file_that_is_no_configuration_is_bad_input(write, text, complaint):
    with pytest.raises(InputError, match=complaint):
        load_settings(write(text))


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="cannot read the configuration"):
        load_settings(tmp_path / "none.yaml")


def test_a_variable_that_is_not_json_is_bad_input(monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_PLANNER__LADDER", "[x")
    with pytest.raises(InputError, match="environment variables"):
        load_settings()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads_and_says_what_it_is_for(path):
    settings = load_settings(path)
    assert path.read_text().startswith("# For ")
    assert len(settings.planner.ladder) >= settings.limits.num_rounds
    assert sum(rung.num_candidates for rung in settings.planner.ladder) <= settings.limits.num_candidates


def test_default_yaml_tells_every_setting_and_its_true_default():
    assert yaml.safe_load((CONFIGS / "default.yaml").read_text()) == Settings().model_dump(mode="json")
