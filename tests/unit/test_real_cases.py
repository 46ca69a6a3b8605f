"""The case file is sound, and a case is rebuilt from two archives without running anything in them."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.bench.build import build_tasks
from pipeline.bench.recipe import injected
from pipeline.bench.sdist import Index, unpack
from pipeline.bench.sources import Library
from pipeline.core import Outcome, PreparedEnvironment, SandboxResult, Task
from pipeline.exceptions import InputError
from pipeline.testing import RecordingSandbox
from tests.benchmarks.real_cases.build import build_cases, write_tasks
from tests.benchmarks.real_cases.case import Sdist, load_cases, source_of
from tests.benchmarks.real_cases.tasks import bench_task
from tests.benchmarks.real_cases.verify import find_problems
from tests.unit.junit import account

BEFORE = {"lib/code.py": "x = 1\n", "lib/setup.py": "raise SystemExit('ran')\n", "lib/test_x.py": "old\n"}
AFTER = {"lib/code.py": "x = 2\n", "lib/setup.py": "raise SystemExit('ran')\n", "lib/test_x.py": "new\n"}


def sdist(folder: Path, version: str, files: dict[str, str], extra: tarfile.TarInfo | None = None) -> Sdist:
    """Write an archive where a download would have put it, and describe it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"lib-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        if extra is not None:
            tar.addfile(extra)
    return Sdist(version=version, filename=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def case(
    out: Path,
    old: dict[str, str] = BEFORE,
    new: dict[str, str] = AFTER,
    **metadata: object,
) -> Task:
    before, after = (sdist(out / "sdists", v, files) for v, files in (("1.0", old), ("1.1", new)))
    source = {
        "project": "lib",
        "licence": "MIT",
        "before": before.model_dump(),
        "after": after.model_dump(),
        "released": "2026-01-01",
        "test_paths": ["test_x.py"],
        "fixed_functions": ["code.py::f"],
        "num_changed_lines": 2,
    }
    return Task(task_id="lib-x", repo="lib-x/repo", fail_to_pass=("t",), metadata=source | metadata)


def test_every_case_names_its_sources_its_tests_and_the_maintainers_fix():
    tasks = load_cases()
    assert len({task.task_id for task in tasks}) == len(tasks) >= 8
    for task in tasks:
        source = source_of(task)
        assert task.fail_to_pass
        assert source.before.version != source.after.version
        assert any(test.partition("::")[0] in source.test_paths for test in task.fail_to_pass)
        assert all("::" in function for function in source.fixed_functions)


def test_no_statement_shows_a_line_of_code_or_names_a_private_function():
    for task in load_cases():
        assert "\n" not in task.statement, task.task_id
        assert not any(word.strip("`").startswith("_") for word in task.statement.split()), task.task_id


def test_an_unknown_case_id_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no such case: nonsense") as caught:
        load_cases(only=["nonsense"])
    assert load_cases()[0].task_id in caught.value.hint


def test_a_case_is_the_old_code_with_the_new_tests_in_one_commit(tmp_path: Path):
    (task,) = build_cases([case(tmp_path)], tmp_path, Index())
    repo = Path(task.repo)
    assert (repo / "code.py").read_text() == "x = 1\n"
    assert (repo / "test_x.py").read_text() == "new\n"
    log = subprocess.run(
        ["git", "-C", repo, "log", "--format=%H"], capture_output=True, text=True, check=True
    )
    assert log.stdout.split() == [task.base_commit]


def test_a_case_is_a_benchmark_task_whose_recipe_makes_the_same_tree(tmp_path: Path):
    function = "import os\n\n\n@os.fspath\ndef f():\n    return 1\n"
    old = BEFORE | {"lib/code.py": function, "lib/tests/old.txt": "a\r\n"}
    new = AFTER | {"lib/code.py": "", "lib/tests/old.txt": "b\r\n", "lib/tests/__init__.py": ""}
    made = case(tmp_path, old, new, test_paths=["test_x.py", "tests"])
    library = Library(
        folder=tmp_path / "w",
        sdists=tmp_path / "sdists",
        clone_cache=tmp_path / "c",
        index=Index(),
    )
    task = bench_task(made, library)
    facts = injected(task)
    assert (facts.split, facts.recipe.sites, facts.recipe.operators) == ("dev", "single", ("release",))
    assert [(place.function, place.lines) for place in facts.gold] == [("code.py::f", (4, 6))]
    assert set(facts.recipe.sha256_by_path) == {"test_x.py", "tests/old.txt", "tests/__init__.py"}
    assert "return 1" not in facts.recipe.diff

    [built] = build_tasks([task], tmp_path / "bench", library, lambda _: None)
    [expected] = build_cases([made], tmp_path, Index())
    trees = [
        subprocess.run(
            ["git", "-C", t.repo, "rev-parse", "HEAD^{tree}"], capture_output=True, text=True, check=True
        ).stdout
        for t in (built, expected)
    ]
    assert trees[0] == trees[1]


def test_a_fixed_function_that_the_older_release_has_not_is_told(tmp_path: Path):
    library = Library(
        folder=tmp_path / "w",
        sdists=tmp_path / "sdists",
        clone_cache=tmp_path / "c",
        index=Index(),
    )
    with pytest.raises(InputError, match=r"the older release has no code\.py::f"):
        bench_task(case(tmp_path), library)


def test_the_same_sources_always_make_the_same_commit(tmp_path: Path):
    commits = {
        build_cases([case(folder)], folder, Index())[0].base_commit
        for folder in (tmp_path / "a", tmp_path / "b")
    }
    assert len(commits) == 1


def test_a_built_case_is_kept_and_a_changed_one_is_built_again(tmp_path: Path):
    first = case(tmp_path)  # made once: an archive holds the time
    (task,) = build_cases([first], tmp_path, Index())
    marker = Path(task.repo) / "marker"
    marker.touch()
    build_cases([first], tmp_path, Index())
    assert marker.exists()
    build_cases([case(tmp_path, test_paths=["test_x.py", "code.py"])], tmp_path, Index())
    assert not marker.exists()


def test_an_archive_that_is_not_the_one_named_is_refused(tmp_path: Path):
    task = case(tmp_path)
    (tmp_path / "sdists" / "lib-1.0.tar.gz").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"lib-1\.0\.tar\.gz has sha256"):
        build_cases([task], tmp_path, Index())


def test_an_archive_that_writes_outside_its_folder_is_refused(tmp_path: Path):
    link = tarfile.TarInfo("lib/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../outside"
    sdist(tmp_path, "9", BEFORE, extra=link)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(tmp_path / "lib-9.tar.gz", target)


def test_tests_that_the_next_release_does_not_have_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="is not in the next release"):
        build_cases([case(tmp_path, test_paths=["../code.py"])], tmp_path, Index())


def test_tasks_are_written_as_they_are_read(tmp_path: Path):
    tasks = load_cases()[:2]
    write_tasks(tasks, tmp_path / "tasks.jsonl")
    assert load_cases(tmp_path / "tasks.jsonl") == tasks


class OneEnvironment:
    """An EnvironmentBuilder that has nothing to install."""

    async def prepare(self, tree: Path) -> PreparedEnvironment:
        return PreparedEnvironment(environment_id="none", python="python", mounts=())


def junit(*, error: str = "", others: str = "") -> SandboxResult:
    """Return what pytest leaves for test_x.py::t, which fails with `error` or passes."""
    failure = f'<failure message="{error}"/>' if error else ""
    text = f'<testsuite><testcase classname="test_x" name="t">{failure}</testcase>{others}</testsuite>'
    return signed(int(bool(error)), text.encode())


def signed(exit_code: int, report: bytes) -> SandboxResult:
    result = SandboxResult(outcome=Outcome.EXITED, exit_code=exit_code, collected={"junit.xml": report})
    return replace(result, collected={**result.collected, "account.json": account(result)})


async def problems(tmp_path: Path, results: list[SandboxResult]) -> list[str]:
    """Verify a case whose runs, two of the previous release and two of the next, end like this."""
    (task,) = build_cases([case(tmp_path)], tmp_path, Index())
    task = task.model_copy(update={"fail_to_pass": ("test_x.py::t",)})
    left = iter(results)
    return await find_problems(task, RecordingSandbox(lambda _: next(left)), OneEnvironment())


async def test_a_case_whose_test_fails_before_and_passes_after_is_sound(tmp_path: Path):
    failing, passing = junit(error="assert 1 == 2"), junit()
    assert await problems(tmp_path, [failing, failing, passing, passing]) == []


async def test_a_test_that_misses_what_is_new_is_no_bug(tmp_path: Path):
    failing, passing = junit(error="ImportError: cannot import name 'new'"), junit()
    (problem,) = await problems(tmp_path, [failing, failing, passing, passing])
    assert "fails for another reason: ImportError" in problem


async def test_a_test_that_passes_already_is_no_bug(tmp_path: Path):
    passing = junit()
    (problem,) = await problems(tmp_path, [passing] * 4)
    assert "does not fail on the previous release" in problem


async def test_a_test_that_ends_differently_each_time_proves_nothing(tmp_path: Path):
    failing, passing = junit(error="assert 1 == 2"), junit()
    (problem,) = await problems(tmp_path, [failing, passing, passing, passing])
    assert "does not end the same way each time" in problem


async def test_a_test_that_the_next_release_breaks_is_named(tmp_path: Path):
    other = '<testcase classname="test_x" name="other">{}</testcase>'
    failing = junit(error="assert 1 == 2", others=other.format(""))
    after = signed(1, junit(others=other.format('<failure message="assert 0"/>')).collected["junit.xml"])
    (problem,) = await problems(tmp_path, [failing, failing, after, after])
    assert problem == "test_x.py::other broke in the next release"
