"""Writes the real cases as `bench build` and `bench run` take them.

`python -m tests.benchmarks.real_cases.tasks --out real.jsonl [--only ID ...]`. Each becomes a task with a
recipe: the older release's archive, and as its diff the next release's test files.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.bench.build import write_tasks
from pipeline.bench.recipe import Injected, Place, Recipe, SdistSource, Sites
from pipeline.bench.sdist import Index
from pipeline.bench.sources import Library
from pipeline.context.symbols import definitions
from pipeline.core import Task
from pipeline.exceptions import EnvironmentBrokenError, InputError, LoopwrightError
from pipeline.snapshot import Snapshot
from pipeline.workspace.git import open_scratch
from tests.benchmarks.real_cases.build import compose
from tests.benchmarks.real_cases.case import Sdist, Source, load_cases, source_of


def bench_task(case: Task, library: Library) -> Task:
    """Return the case with a recipe, and with the function that the maintainers changed as its gold.

    Raises:
        InputError: an archive is not the one that the case was made from, or lacks what the case names.
        EnvironmentBrokenError: the index or git fails.
    """
    source = source_of(case)
    before, after = (_origin(source, sdist) for sdist in (source.before, source.after))
    tree = library.tree(before)
    diff, sha256_by_path = _laid_over(case, tree, library.tree(after))
    recipe = Recipe(
        source=before,
        diff=diff,
        sha256_by_path=sha256_by_path,
        operators=("release",) * len(source.fixed_functions),
        sites=_sites(source.fixed_functions),
        seed=0,
    )
    gold = tuple(_place(case, tree, function) for function in source.fixed_functions)
    metadata = Injected(split="dev", recipe=recipe, gold=gold).model_dump(mode="json")
    facts = {"licence": source.licence, "released": source.released}
    return case.model_copy(update={"metadata": {**metadata, **facts}})


def _origin(source: Source, sdist: Sdist) -> SdistSource:
    return SdistSource(project=source.project, **sdist.model_dump())


def _laid_over(case: Task, before: Snapshot, after: Snapshot) -> tuple[str, dict[str, str]]:
    """Return the diff that lays the next release's tests over the older code, and what its files become."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(before.root, tree, symlinks=True)
        with open_scratch(tree) as git:
            git.run("add", "--all", "--force")
            old = git.run("write-tree")[1].decode().strip()
            compose(case, tree, after.root)
            # Archives may give all files one time: git would take a file of the same size for the same file.
            git.run("read-tree", "--empty")
            git.run("add", "--all", "--force")
            options = ("diff", "--cached", "--no-renames", "--no-color", "--no-ext-diff", old)
            diff = git.run(*options, "--binary", "--full-index")[1]
            paths = [path.decode() for path in git.run(*options, "--name-only", "-z")[1].split(b"\0") if path]
        try:
            return diff.decode(), {p: hashlib.sha256((tree / p).read_bytes()).hexdigest() for p in paths}
        except UnicodeDecodeError as exc:
            raise InputError(f"{case.task_id}: its tests are not UTF-8, so no recipe can hold them") from exc


def _sites(functions: Sequence[str]) -> Sites:
    if len(functions) == 1:
        return "single"
    return "file" if len({function.partition("::")[0] for function in functions}) == 1 else "files"


def _place(case: Task, tree: Snapshot, function: str) -> Place:
    path, _, qualname = function.partition("::")
    found = [d for d in definitions(path, tree.read_bytes(path)) if d.qualname == qualname]
    if not found:
        raise InputError(f"{case.task_id}: the older release has no {function}")
    return Place(function=function, lines=(found[-1].start_line, found[-1].end_line))


def _tasks(only: list[str], work: Path) -> Iterator[Task]:
    library = Library(folder=work, sdists=work / "sdists", clone_cache=work / "clones", index=Index())
    for case in load_cases(only=only):
        print(case.task_id, file=sys.stderr, flush=True)
        yield bench_task(case, library)


def main(argv: list[str] | None = None) -> int:
    """Write the cases asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the task file to write")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="these cases alone")
    options = parser.parse_args(argv)
    work = options.out.with_name(options.out.name + ".work").absolute()
    try:
        write_tasks(list(_tasks(options.only, work)), options.out)
    except LoopwrightError as exc:
        print(f"error: {exc}" + (f"\nhint: {exc.hint}" if exc.hint else ""), file=sys.stderr)
        return 4 if isinstance(exc, EnvironmentBrokenError) else 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
