"""Makes tasks without a plain bug: `python -m tests.benchmarks.new_code.build --out DIR`.

Three kinds, from the releases of the real cases: `stub`, a function whose body is gone; `absent`, a function
that is gone altogether; `issue`, the older release with its own tests, which pass, and the symptom as text.
DIR/tasks.jsonl goes to `loopwright batch`; `score` says what became of it.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.bench.repository import head_of, make_repository
from pipeline.bench.sdist import Index, unpack
from pipeline.core import Task
from tests.benchmarks.real_cases.build import build_cases, write_tasks
from tests.benchmarks.real_cases.case import load_cases, source_of


class Function(NamedTuple):
    """A function to take away."""

    case: str  # the real case whose older release it is taken from
    place: str  # path::name
    test: str


HUMANIZE, BOLTONS, PYDASH = "humanize-intword-rollover", "boltons-bits-length-bound", "pydash-chunk-zero"
# Chosen by hand before the model was tried on them: short functions with a docstring and tests of their own.
STUBS = (
    Function(HUMANIZE, "src/humanize/lists.py::natural_list", "tests/test_lists.py"),
    Function(HUMANIZE, "src/humanize/number.py::apnumber", "tests/test_number.py"),
    Function(HUMANIZE, "src/humanize/number.py::clamp", "tests/test_number.py"),
    Function(PYDASH, "src/pydash/arrays.py::initial", "tests/test_arrays.py"),
    Function(PYDASH, "src/pydash/arrays.py::drop_right", "tests/test_arrays.py"),
    Function(PYDASH, "src/pydash/arrays.py::index_of", "tests/test_arrays.py"),
    Function(BOLTONS, "boltons/mathutils.py::clamp", "tests/test_mathutils.py"),
    Function(BOLTONS, "boltons/iterutils.py::same", "tests/test_iterutils.py"),
)
ABSENT = (
    Function(BOLTONS, "boltons/mathutils.py::clamp", "tests/test_mathutils.py"),
    Function(BOLTONS, "boltons/mathutils.py::ceil", "tests/test_mathutils.py"),
    Function(BOLTONS, "boltons/iterutils.py::first", "tests/test_iterutils.py"),
    Function(BOLTONS, "boltons/strutils.py::is_uuid", "tests/test_strutils.py"),
)
ISSUES = (
    "boltons-indexedset-update",
    "boltons-bits-negative-index",
    "boltons-bits-length-bound",
    "humanize-fractional-whole",
    "humanize-intcomma-large",
    "humanize-intword-rollover",
    "pydash-chunk-zero",
    "pydash-last-index-of-zero",
    "pydash-in-range-reversed",
    "tomlkit-bool-equality",
)


def build(out: Path, index: Index) -> list[Task]:
    """Return the tasks, with their repositories made under `out`."""
    names = {HUMANIZE, BOLTONS, PYDASH, *ISSUES}
    cases = {task.task_id: task for task in build_cases(load_cases(only=names), out / "cases", index)}
    tasks = []
    for mode, functions in (("stub", STUBS), ("absent", ABSENT)):
        for function in functions:
            tasks.append(_function_task(cases[function.case], function, mode, out, index))
    return tasks + [_issue_task(cases[name], out, index) for name in ISSUES]


def without(source: str, name: str, mode: Literal["stub", "absent"]) -> tuple[str, str]:
    """Return the source without the function or its body, and the first line of the function's docstring."""
    lines = source.split("\n")
    node = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name)
    doc = (ast.get_docstring(node) or name).partition("\n\n")[0].replace("\n", " ")
    first = node.body[1] if len(node.body) > 1 and ast.get_docstring(node) else node.body[0]
    start = first.lineno if mode == "stub" else min(n.lineno for n in (node, *node.decorator_list))
    stub = ["    raise NotImplementedError"] if mode == "stub" else []
    return "\n".join([*lines[: start - 1], *stub, *lines[node.end_lineno :]]), doc


def _function_task(
    case: Task, function: Function, mode: Literal["stub", "absent"], out: Path, index: Index
) -> Task:
    path, _, name = function.place.partition("::")
    task_id = f"{mode}-{source_of(case).project}-{name}"
    repo, doc = out / task_id / "repo", ""
    with _older_release(case, out, index) as tree:
        text, doc = without((tree / path).read_text("utf-8"), name, mode)
        (tree / path).write_text(text, "utf-8")
        _keep(tree, repo)
    return Task(
        task_id=task_id,
        repo=str(repo.resolve()),
        base_commit=head_of(repo),
        statement=f"Write `{name}` in `{path}`: {doc}",
        test_command=f"python -m pytest {function.test}",
        kind="implement",
    )


def _issue_task(case: Task, out: Path, index: Index) -> Task:
    task_id = f"issue-{case.task_id}"
    repo = out / task_id / "repo"
    with _older_release(case, out, index) as tree:
        _keep(tree, repo)
    return Task(
        task_id=task_id,
        repo=str(repo.resolve()),
        base_commit=head_of(repo),
        statement=case.statement,
        test_command=case.test_command,
    )


class _older_release(tempfile.TemporaryDirectory[str]):  # noqa: N801 - used like a function
    """The older release of a case, with its own tests, for as long as the block lasts."""

    def __init__(self, case: Task, out: Path, index: Index) -> None:
        super().__init__(dir=out)
        self._source, self._sdists, self._index = source_of(case), out / "cases/sdists", index

    def __enter__(self) -> Path:  # type: ignore[override]
        folder = Path(super().__enter__()) / "tree"
        folder.mkdir()
        before = self._source.before
        archive = self._index.fetch(self._source.project, before.filename, self._sdists, before.sha256)
        return unpack(archive, folder)


def _keep(tree: Path, repo: Path) -> None:
    if not repo.exists():
        make_repository(tree, "The previous release")
        repo.parent.mkdir(parents=True, exist_ok=True)
        tree.rename(repo)


def main() -> int:
    """Build the tasks and print where they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_tasks(build(options.out, Index()), options.out / "tasks.jsonl")
    print(options.out / "tasks.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
