"""Which image serves which Python. No engine."""

import pytest

from pipeline.config import SandboxSection, Settings, load_settings
from pipeline.core import PreparedEnvironment, SandboxRequest
from pipeline.exceptions import InputError
from workers.sandbox.image import DEFAULT_TAG
from workers.sandbox.image_table import GENERIC, IMAGES, PYTHONS, fitting, of_python
from workers.sandbox.mounts import image_of
from workers.sandbox.selection import image_tag


@pytest.mark.parametrize(
    ("requires_python", "expected"),
    [
        (">=3.12", ["3.13", "3.12"]),
        ("<3.10", ["3.9"]),
        ("~=3.10.4", ["3.10"]),
        (">=3.9,!=3.10.*,<3.12", ["3.11", "3.9"]),
        ("==3.13.*", ["3.13"]),
        (">=3.14", []),
        ("<3", []),
        ("", ["3.13", "3.12", "3.11", "3.10", "3.9"]),
        ("three", []),
    ],
)
def test_images_are_chosen_by_what_the_project_says_newest_first(requires_python, expected):
    assert [spec.python for spec in fitting(requires_python)] == expected


def test_every_python_that_may_be_set_has_an_image_of_its_own_and_the_default_is_3_11():
    for python in ("3.9", "3.10", "3.11", "3.12", "3.13"):
        assert image_tag(SandboxSection(python=python)) == of_python(python).tag
    assert image_tag(Settings().sandbox) == DEFAULT_TAG == "loopwright-python:3.11"
    assert len(IMAGES) == len(PYTHONS) + 1


def test_an_image_that_is_named_goes_before_the_python():
    assert image_tag(SandboxSection(image="mine:1", python="3.9")) == "mine:1"
    assert image_tag(SandboxSection(image=GENERIC.tag)) in IMAGES


@pytest.mark.parametrize(("text", "expected"), [("3.9", "3.9"), ("3.10", "3.10"), ("'3.13'", "3.13")])
def test_the_python_may_stand_without_quotes_in_a_configuration(tmp_path, text, expected):
    (tmp_path / "c.yaml").write_text(f"sandbox:\n  python: {text}\n")
    assert load_settings(tmp_path / "c.yaml").sandbox.python == expected


def test_a_python_that_no_image_has_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"sandbox\.python.*3\.13"):
        load_settings(None, {"sandbox": {"python": "2.7"}})


def test_a_run_is_in_the_image_that_its_environment_was_made_in():
    environment = PreparedEnvironment(environment_id="e", python="python3", mounts=(), image="made-in")
    assert image_of(SandboxRequest(argv=("true",), environment=environment)) == "made-in"
    assert image_of(SandboxRequest(argv=("true",))) == ""
