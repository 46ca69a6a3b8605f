"""Sources are told apart, unpacked without running anything, and rebuilt from their recipes byte for byte."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.bench.build import build_tasks, read_tasks, write_tasks
from pipeline.bench.recipe import GitSource, Injected, Place, Recipe, SdistSource
from pipeline.bench.repository import head_of, make_repository
from pipeline.bench.sdist import Index, project_of
from pipeline.bench.sources import Library
from pipeline.bench.split import split_of
from pipeline.core import Task
from pipeline.exceptions import EnvironmentBrokenError, InputError
from pipeline.patch import unified_diff
from tests.unit.planner import make_repository as make_git_repository

CODE = "def f(a):\r\n    return a < 'é'\r\n".encode("latin-1")
CODE = b"# -*- coding: latin-1 -*-\r\n" + CODE
BUG = CODE.replace(b"<", b"<=")
FILES = {
    "lib-1.0/code.py": CODE,
    "lib-1.0/__pycache__/code.cpython-311.pyc": b"the original",
    "lib-1.0/old.pyc": b"the original",
    "lib-1.0/.git/config": b"[core]\n\tfsmonitor = touch ran\n",
    "lib-1.0/.gitattributes": b"* text=auto eol=lf\n",
    "lib-1.0/.gitignore": b"code.py\n",
}


class NoIndex(Index):
    """An index that has nothing."""

    def _links(self, project):
        return {}


def library(folder: Path) -> Library:
    return Library(folder=folder, sdists=folder / "sdists", clone_cache=folder / "clones", index=NoIndex())


def archive(folder: Path, files=FILES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lib-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def task(source, old=CODE, new=BUG, path="code.py", **recipe) -> Task:
    values = {
        "source": source,
        "diff": unified_diff(path, old, new),
        "sha256_by_path": {path: hashlib.sha256(new).hexdigest()},
        "operators": ("comparison-boundary",),
        "sites": "single",
        "seed": 0,
    }
    place = Place(function="code.py::f", lines=(3, 3))
    metadata = Injected(split="dev", recipe=Recipe(**values | recipe), gold=(place,)).model_dump(mode="json")
    return Task(task_id="lib-1", repo="lib-1/repo", fail_to_pass=("t",), metadata=metadata)


def git(repo: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", repo, *arguments], capture_output=True, text=True, check=True).stdout


def test_an_archive_becomes_a_recipe_and_the_recipe_a_repository_that_shows_only_the_bug(tmp_path):
    known = library(tmp_path / "work")
    source = known.resolve(str(archive(tmp_path)))
    assert (source.project, source.version, source.kind) == ("lib", "1.0", "sdist")
    [built] = build_tasks([task(source)], tmp_path / "out", known, lambda _: None)
    repo = Path(built.repo)
    assert (repo / "code.py").read_bytes() == BUG  # in its encoding, with its line ends
    assert git(repo, "rev-list", "--all", "--count").strip() == "1"
    listed = git(repo, "ls-tree", "-r", "--name-only", "HEAD").split()
    assert listed == [".gitattributes", ".gitignore", "code.py"]  # ignored files too
    shown = subprocess.run(
        ["git", "-C", repo, "show", "HEAD:code.py"], capture_output=True, check=True
    ).stdout
    assert shown == BUG
    assert not any(CODE in path.read_bytes() or b"original" in path.read_bytes() for path in files(repo))
    assert not (repo / "ran").exists()
    assert built.base_commit == head_of(repo)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_built_is_kept_and_the_same_recipe_makes_the_same_commit(tmp_path):
    known = library(tmp_path / "work")
    made = task(known.resolve(str(archive(tmp_path))))
    said: list[str] = []
    [first] = build_tasks([made], tmp_path / "out", known, said.append)
    build_tasks([made], tmp_path / "out", known, said.append)
    assert said == ["building lib-1"]
    [other] = build_tasks([made], tmp_path / "other", known, said.append)
    assert first.base_commit == other.base_commit


def test_a_repository_is_taken_at_its_commit_without_what_is_not_committed(tmp_path):
    repo = make_git_repository(tmp_path / "My Repo", {"a.py": "x = 1\n"})
    (repo / "a.py").write_text("x = 2\n")
    known = library(tmp_path / "work")
    source = known.resolve(str(repo))
    assert source == GitSource(
        project="my-repo", repo=str(repo), commit=git(repo, "rev-parse", "HEAD").strip()
    )
    assert known.tree(source).read_bytes("a.py") == b"x = 1\n"
    shutil.rmtree(tmp_path / "work" / "trees")  # as on another machine that has the repository
    assert known.tree(source).read_bytes("a.py") == b"x = 1\n"
    assert not (known.tree(source).root / ".git").exists()


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("no/such/folder", "there is no no/such/folder", "git repository's path"),
        ("requests", "there is no requests", "requests==1.0"),
        ("requests==1.0", "no source distribution of requests 1.0", "check the name"),
        ("requests==one", "not a version", "NAME==VERSION"),
        ("ext::sh -c date", "transport", "https"),
    ],
)
def test_what_is_no_source_is_refused_with_what_to_do(tmp_path, spec, message, hint):
    with pytest.raises(InputError, match=message) as caught:
        library(tmp_path).resolve(spec)
    assert hint in caught.value.hint


def test_files_and_folders_that_are_no_sources_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "lib-1.0.tar.gz").write_bytes(b"no archive")
    (tmp_path / "lib.tar.gz").write_bytes(b"")
    (tmp_path / "plain").mkdir()
    known = library(tmp_path / "work")
    for name, message in (
        ("a.txt", "no archive of sources"),
        ("lib.tar.gz", "not the name of a source distribution"),
        ("plain", "not a git repository"),
    ):
        with pytest.raises(InputError, match=message):
            known.resolve(str(tmp_path / name))
    with pytest.raises(InputError, match="cannot be unpacked"):
        known.tree(known.resolve(str(tmp_path / "lib-1.0.tar.gz")))


def test_an_archive_of_several_folders_or_of_too_much_is_refused(tmp_path):
    known = library(tmp_path / "work")
    two = known.resolve(str(archive(tmp_path / "a", {"x/a.py": b"", "y/a.py": b""})))
    with pytest.raises(InputError, match="single folder"):
        known.tree(two)
    bomb = tmp_path / "lib-2.0.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("lib/zeros", bytes(600 << 20))
    with pytest.raises(InputError, match="unpacks to more"):
        known.tree(known.resolve(str(bomb)))


def test_another_file_under_the_same_name_is_told(tmp_path):
    known = library(tmp_path / "work")
    source = known.resolve(str(archive(tmp_path)))
    archive(tmp_path / "work" / "sdists", {"lib-1.0/code.py": b"x"})
    with pytest.raises(InputError, match="has sha256"):
        known.tree(source)
    with pytest.raises(EnvironmentBrokenError, match=r"has no other-1\.0\.tar\.gz"):
        known.tree(source.model_copy(update={"project": "other", "filename": "other-1.0.tar.gz"}))


def test_a_recipe_that_does_not_fit_its_source_is_told(tmp_path):
    known = library(tmp_path / "work")
    source = known.resolve(str(archive(tmp_path)))
    for made, message in (
        (task(source, diff="--- a/no.py\n+++ b/no.py\n@@ -1 +1 @@\n-a\n+b\n"), "does not apply"),
        (task(source, sha256_by_path={"code.py": "0" * 64}), "not what it was"),
        (Task(task_id="x", repo="x"), "no recipe"),
    ):
        with pytest.raises(InputError, match=message):
            build_tasks([made], tmp_path / "out", known, lambda _: None)


def test_a_file_name_in_a_recipe_cannot_lead_out_of_the_folder():
    with pytest.raises(ValueError, match="filename"):
        SdistSource(project="x", version="1", filename="../x-1.tar.gz", sha256="0" * 64)


def test_task_files_are_read_back_and_bad_ones_refused(tmp_path):
    source = SdistSource(project="lib", version="1.0", filename="lib-1.0.tar.gz", sha256="0" * 64)
    path = tmp_path / "tasks.jsonl"
    write_tasks([task(source)], path)
    assert read_tasks(path) == [task(source)]
    assert "limits" not in json.loads(path.read_text())
    line = path.read_text()
    for text, message in ((line * 2, "there twice"), ("{}\n", "line 1 is no task"), ("\n", "holds no task")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_tasks(path)


def test_a_project_stays_in_its_part_whatever_else_is_in_the_file():
    names = [f"project-{i}" for i in range(400)]
    parts = {name: split_of(name, held_out_share=0.3) for name in names}
    assert 90 < sum(part == "held_out" for part in parts.values()) < 150
    more = {name: split_of(name, held_out_share=0.4) for name in names}
    assert all(more[name] == "held_out" for name in names if parts[name] == "held_out")
    assert parts != {name: split_of(name, held_out_share=0.3, seed=1) for name in names}
    assert {split_of(name, held_out_share=0) for name in names} == {"dev"}
    assert {split_of(name, held_out_share=1) for name in names} == {"held_out"}
    assert split_of("project-1", held_out_share=1, dev=["project-1"]) == "dev"
    with pytest.raises(InputError, match="both"):
        split_of("a", held_out_share=0, dev=["a"], held_out=["a"])


def test_names_of_archives_are_read_as_the_packaging_rules_say():
    assert project_of("python_slugify-8.0.4.tar.gz") == ("python-slugify", "8.0.4")
    with pytest.raises(InputError, match="not the name"):
        project_of("slugify.whl")


def test_a_repository_is_not_made_in_the_one_around_it(tmp_path):
    outer = make_git_repository(tmp_path / "outer", {"a.py": "x = 1\n"})
    (outer / "inner" / "sub" / ".git" / "hooks").mkdir(parents=True)
    make_repository(outer / "inner")
    assert git(outer / "inner", "rev-parse", "--show-toplevel").strip() == str((outer / "inner").resolve())
    assert not (outer / "inner" / "sub" / ".git").exists()
