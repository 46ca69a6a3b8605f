"""The documents are true of the code as it stands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_architecture_names_every_module_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for package in ("pipeline", "workers", "model"):
        section = re.search(rf"^### {package}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
        assert section is not None
        named = set(re.findall(r"^- `([\w/]+)`: ", section[1], re.MULTILINE))
        modules = {
            path.relative_to(ROOT / package).with_suffix("") for path in (ROOT / package).rglob("*.py")
        }
        assert named == {module.as_posix() for module in modules if module.name != "__init__"}


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z0-9-]+)`", (ROOT / "README.md").read_text("utf-8"))) <= targets


def test_no_tracked_text_names_a_path_of_one_machine() -> None:
    suffixes = {".py", ".md", ".sh", ".toml", ".yaml", ".lock", ".j2", ""}
    folders = ("pipeline", "workers", "model", "ops", "configs", "sandbox_images", ".ci")
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in suffixes:
                found = re.search(r"(?<![\w.])/(?:root|work|opt/wheels)/", path.read_text("utf-8", "replace"))
                assert found is None, f"{path}: {found}"
